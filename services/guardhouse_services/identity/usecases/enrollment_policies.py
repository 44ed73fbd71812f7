"""Enrollment policies, and trying them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from guardhouse.errors import EnrollmentRefused
from guardhouse.ids import ENROLLMENT_POLICY, new_id
from guardhouse.rules import NOWHERE, Client, Identity
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain import policy_checks
from guardhouse_services.identity.domain.credentials import Credential, IdentityProvider, Person
from guardhouse_services.identity.domain.enrollment_policies import (
    Admitted,
    EnrollmentPolicy,
    PolicyDeletion,
    PolicyTrace,
    PolicyUsage,
    PolicyWrite,
    Rules,
    Stranded,
    Verdict,
    evaluate,
    trace,
)
from guardhouse_services.identity.store.tables import enrollment_policy
from guardhouse_services.identity.usecases import identity_providers
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.identity.usecases.seats import has_seat
from guardhouse_services.identity.usecases.verifier import Verifier, check_provider, service_token
from guardhouse_services.paging import Page

LIMIT = 500
"""How many an organization may have. Every enrollment evaluates them all."""
LISTED = 100
"""How many of the registrations that a policy admitted are named when it is deleted or narrowed (decision 13)."""
PART = 1000
"""How many registrations a transaction looks at."""
DECIDING = frozenset({"decision", "precedence", "include", "require", "exclude"})
"""The fields by which a policy decides."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What would become of an enrollment."""

    verdict: Verdict
    seat_available: bool
    trace: Sequence[PolicyTrace]


class EnrollmentPolicies:
    """Creates, shows, changes, deletes and tries policies."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier

    async def create(self, call: Call, organization_id: str, draft: EnrollmentPolicy) -> tuple[PolicyWrite, str]:
        """The policy and the revision token.

        Raises OrganizationNotFound, LimitReached, ServiceTokenNotFound, RuleGroupNotFound, PrecedenceTaken, and
        InvalidField for rules that could never match.
        """

        def work(tx: Transaction) -> tuple[PolicyWrite, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _recalled(tx, organization_id, done["enrollment_policy_id"], done), present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            made = replace(
                draft,
                enrollment_policy_id=new_id(ENROLLMENT_POLICY, tx.now),
                create_time=tx.now,
                update_time=tx.now,
            )
            _check(made)
            store.organizations.check_room(tx, organization_id, enrollment_policy, LIMIT)
            _lock_named(tx, organization_id, made)
            store.enrollment_policies.insert(tx, organization_id, made)
            written, policy_id = PolicyWrite(made, _warnings(tx, organization_id, made)), made.enrollment_policy_id
            requests.record(tx, call, policy_id, enrollment_policy_id=policy_id, **_remembered(written))
            return written, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, enrollment_policy_id: str) -> EnrollmentPolicy:
        """Raises EnrollmentPolicyNotFound."""
        return await self._database.read(
            lambda tx: store.enrollment_policies.get(tx, organization_id, enrollment_policy_id)
        )

    async def page(self, organization_id: str, page: Page) -> Sequence[EnrollmentPolicy]:
        return await self._database.read(lambda tx: store.enrollment_policies.page(tx, organization_id, page))

    async def update(
        self,
        call: Call,
        organization_id: str,
        enrollment_policy_id: str,
        changes: dict[str, Any],
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[PolicyWrite, str]:
        """Changes these fields. Raises EnrollmentPolicyNotFound, EtagMismatch and what `create` raises."""

        def changed(tx: Transaction, *, lock: bool) -> EnrollmentPolicy:
            found = store.enrollment_policies.get(tx, organization_id, enrollment_policy_id, lock=lock)
            etags.check(messages.enrollment_policy(found).etag, etag)
            made = replace(found, **changes, update_time=tx.now)
            if DECIDING & changes.keys():
                _check(made)
            return made

        def proposed(tx: Transaction) -> Rules | None:
            if requests.find(tx, call.key) is not None or not DECIDING & changes.keys():
                return None
            return store.enrollment_policies.rules_of(tx, organization_id).with_policy(changed(tx, lock=False))

        # Before the change, for it would hold its locks for as long as everybody is looked at.
        stranded = Stranded()
        if (rules := await self._database.read(proposed)) is not None:
            stranded = await self._count(self._stranded(organization_id, enrollment_policy_id, rules))

        def work(tx: Transaction) -> tuple[PolicyWrite, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _recalled(tx, organization_id, enrollment_policy_id, done), present(tx, organization_id)
            made = changed(tx, lock=True)
            _lock_named(tx, organization_id, made)
            store.enrollment_policies.update(tx, organization_id, made)
            written = PolicyWrite(made, _warnings(tx, organization_id, made), stranded)
            requests.record(tx, call, enrollment_policy_id, **_remembered(written))
            return written, publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)

    async def delete(
        self,
        call: Call,
        organization_id: str,
        enrollment_policy_id: str,
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[PolicyDeletion, str]:
        """What goes and whom it leaves behind, and the revision token.

        Raises EnrollmentPolicyNotFound and EtagMismatch.
        """

        def work(tx: Transaction) -> tuple[PolicyDeletion, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return requests.recall(PolicyDeletion, done) or PolicyDeletion(), present(tx, organization_id)
            found = store.enrollment_policies.get(tx, organization_id, enrollment_policy_id, lock=True)
            etags.check(messages.enrollment_policy(found).etag, etag)
            admitted = store.registrations.of_policy(tx, organization_id, enrollment_policy_id, LISTED)
            deletion = PolicyDeletion(found, *admitted)
            store.enrollment_policies.delete(tx, organization_id, enrollment_policy_id)
            requests.record(tx, call, enrollment_policy_id, value=requests.remember(deletion))
            return deletion, publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)

    async def usage(self, organization_id: str, enrollment_policy_id: str) -> PolicyUsage:
        """Raises EnrollmentPolicyNotFound."""

        def work(tx: Transaction) -> PolicyUsage:
            store.enrollment_policies.get(tx, organization_id, enrollment_policy_id)
            return store.registrations.usage_of_policy(tx, organization_id, enrollment_policy_id)

        return await self._database.read(work)

    async def stranded(self, organization_id: str, enrollment_policy_id: str, page: Page) -> Sequence[Admitted]:
        """Whom the policy admitted, if it is deleted by now as well, and no policy would admit again (decision 13)."""
        rules = await self._database.read(lambda tx: store.enrollment_policies.rules_of(tx, organization_id))
        found: list[Admitted] = []
        async for it in self._stranded(organization_id, enrollment_policy_id, rules, page.after):
            found.append(it)
            if len(found) > page.size:
                break
        return found

    async def _stranded(
        self, organization_id: str, enrollment_policy_id: str, rules: Rules, after: str = ""
    ) -> AsyncIterator[Admitted]:
        """In parts, so that no transaction is open for long."""
        best = rules.at_best()

        def part(tx: Transaction, after: str) -> tuple[list[Admitted], str]:
            found = store.registrations.admitted_by(tx, organization_id, enrollment_policy_id, after, PART)
            refused = [it for it in found if not evaluate(best, it.who).admitted]
            return refused, found[-1].registration_id if len(found) == PART else ""

        more = True
        while more:
            refused, after = await self._database.read(partial(part, after=after))
            more = bool(after)
            for it in refused:
                yield it

    @staticmethod
    async def _count(refused: AsyncIterator[Admitted]) -> Stranded:
        users, registrations, first = set[str](), 0, list[str]()
        async for it in refused:
            registrations += 1
            if it.user_id:
                users.add(it.user_id)
            if len(first) < LISTED:
                first.append(it.registration_id)
        return Stranded(len(users), registrations, tuple(first))

    async def test(self, organization_id: str, tested: Credential | Identity, client: Client = NOWHERE) -> Tested:
        """What would become of an enrollment, and whether there is a seat for it. Nothing is used up.

        Raises OrganizationNotFound and what verifying the credential raises.
        """
        proof = tested if isinstance(tested, Identity) else await self._verifier.prove(organization_id, tested)

        def work(tx: Transaction) -> Tested:
            seats = store.organizations.seats(tx, organization_id)
            seat_available, is_blocked = seats.available is None or seats.available > 0, False
            if isinstance(proof, Identity):
                who = proof
            elif isinstance(proof, Person):
                who = as_identity(proof, check_provider(tx, organization_id, proof))
                user = store.users.find(tx, organization_id, proof)
                seat_available = seat_available or (user is not None and has_seat(tx, organization_id, user))
                is_blocked = user is not None and user.block_time is not None
            else:
                who, seat_available = Identity(service_token(tx, organization_id, proof).service_token_id), True
            rules = store.enrollment_policies.rules_of(tx, organization_id)
            verdict = evaluate(rules, who, client)
            if is_blocked:
                verdict = Verdict(False, "", "the user was off-boarded, and is refused before any policy is asked")
            return Tested(verdict, seat_available, trace(rules, who, client))

        return await self._database.read(work)


def as_identity(person: Person, provider: IdentityProvider) -> Identity:
    """A person as rules see one."""
    of = person.profile
    return Identity("", of.email, of.groups, of.claims, provider.identity_provider_id, of.methods)


def admit(tx: Transaction, organization_id: str, who: Identity, client: Client) -> str:
    """The id of the policy that admits somebody. Raises EnrollmentRefused."""
    verdict = evaluate(store.enrollment_policies.rules_of(tx, organization_id), who, client)
    if not verdict.admitted:
        raise EnrollmentRefused("no enrollment policy admits this identity; an administrator can say why")
    return verdict.enrollment_policy_id


def _check(policy: EnrollmentPolicy) -> None:
    """Raises InvalidField for rules that could never match."""
    policy.check()
    policy_checks.check(policy, "enrollment_policy")


def _lock_named(tx: Transaction, organization_id: str, policy: EnrollmentPolicy) -> None:
    store.service_tokens.lock(tx, organization_id, policy.service_token_ids)
    store.rule_groups.lock(tx, organization_id, policy.rule_group_ids)


def _warnings(tx: Transaction, organization_id: str, written: EnrollmentPolicy) -> tuple[str, ...]:
    """Of a policy that is stored."""
    rules = store.enrollment_policies.rules_of(tx, organization_id)
    others = [it for it in rules.policies if it.enrollment_policy_id != written.enrollment_policy_id]
    providers = store.identity_providers.page(tx, organization_id, Page("", identity_providers.LIMIT))
    provider_ids = {provider.identity_provider_id for provider in providers}
    kept_claims = {claim for provider in providers for claim in provider.oidc_claims}
    return policy_checks.warnings(written, others, provider_ids, kept_claims)


def _remembered(written: PolicyWrite) -> dict[str, Any]:
    rest = {"warnings": list(written.warnings), "stranded": requests.remember(written.stranded)}
    return {"value": requests.remember(written.enrollment_policy), **rest}


def _recalled(tx: Transaction, organization_id: str, enrollment_policy_id: str, done: dict[str, Any]) -> PolicyWrite:
    policy = requests.recall(EnrollmentPolicy, done)
    if policy is None:
        policy = store.enrollment_policies.get(tx, organization_id, enrollment_policy_id)
    # A release that counted nobody remembered nobody.
    stranded = requests.recall(Stranded, {"value": done.get("stranded", {})}) or Stranded()
    return PolicyWrite(policy, tuple(done.get("warnings", ())), stranded)
