"""Trying policies: what would be decided on given traffic, and why."""

from collections.abc import Sequence

from guardhouse.clock import Clock
from guardhouse.decisions import (
    Reason,
    Registration,
    RegistrationState,
    User,
    check_anywhere,
    check_session,
    check_traffic,
)
from guardhouse.errors import InvalidField, PolicyNotFound, RegistrationNotFound
from guardhouse.expressions import identity_facts
from guardhouse.policies import PolicyInvalid, PolicySet
from guardhouse.replica import posture_facts, signs_in
from guardhouse_services.directory import Directory
from guardhouse_services.session.domain.trials import NEW, Finding, Outcome, Posture, Proposal, Somebody, Trial
from guardhouse_services.session.replica import Replica


class Trials:
    """Tries policies on traffic. Nothing is changed, and nothing asked of the database: a replica knows it all."""

    def __init__(self, clock: Clock, directory: Directory, replica: Replica) -> None:
        self._clock = clock
        self._directory = directory
        self._replica = replica

    async def run(
        self,
        organization_id: str,
        trials: Sequence[Trial],
        time: int | None,
        proposal: Proposal,
    ) -> tuple[Sequence[Outcome], int]:
        """What became of each, and as of when the state is proven.

        Raises OrganizationNotFound, PolicyNotFound, RegistrationNotFound, InvalidField and StateStale.
        """
        await self._directory.organization(organization_id)
        self._replica.require_fresh()
        now = self._replica.now()
        staleness = self._replica.staleness() or 0
        at = now if time is None else time
        state = self._replica.policy_state(organization_id)
        present = state.compiled()
        proposed, deleted = proposal.policies, proposal.deleted
        for policy_id in (*(key for key in proposed if not key.startswith(NEW)), *deleted):
            if policy_id not in state.policies:
                raise PolicyNotFound(policy_id)
        try:
            policies = state.proposed(proposed, deleted) if proposed or deleted else present
        except PolicyInvalid as refusal:
            place = list(proposed).index(refusal.policy_id) if refusal.policy_id in proposed else 0
            field = f"proposed_policies[{place}].{refusal.expression}"
            raise InvalidField(field, f"{field}: {refusal.refusal}") from None
        outcomes = [
            Outcome(
                self._find(organization_id, trial, policies, at),
                None if policies is present else self._find(organization_id, trial, present, at),
            )
            for trial in trials
        ]
        return outcomes, now - staleness

    def _find(self, organization_id: str, trial: Trial, policies: PolicySet, now: int) -> Finding:
        registration, user, posture = self._subject(organization_id, trial.subject, now)
        identity = identity_facts(user.profile if user is not None else None)
        facts = posture_facts(posture, now)
        steps = list(policies.trace(trial.filters, trial.traffic, identity, facts, now))
        hosts = self._replica.sign_in_hosts(organization_id)
        deciding = [step.policy for step in steps if step.decides]
        fresh = (now, 0, self._replica.max_staleness)
        if signs_in(trial.traffic, hosts):
            verdict, policy = check_anywhere(registration, user, Reason.SIGN_IN_HOST, *fresh), None
        else:
            default = self._replica.default_action(organization_id)
            verdict, policy = check_traffic(registration, user, deciding, default, *fresh)
        by_itself = {it.policy_id: check_session(registration, user, it, *fresh) for it in deciding}
        return Finding(verdict, policy, registration, steps, by_itself)

    def _subject(
        self, organization_id: str, subject: str | Somebody, now: int
    ) -> tuple[Registration, User | None, Posture]:
        if isinstance(subject, Somebody):
            somebody = Registration("", RegistrationState.ACTIVE, "somebody", "", now - subject.age, 0, 0)
            reported = None if subject.posture_age is None else now - subject.posture_age
            return somebody, User("somebody", profile=subject.profile), (subject.passed, subject.failed, reported)
        registration, user = self._replica.find(organization_id, subject)
        if registration is None:
            raise RegistrationNotFound(subject)
        return registration, user, self._replica.posture(organization_id, subject)
