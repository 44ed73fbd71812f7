"""Enrollment policies, and trying them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guardhouse.errors import EnrollmentRefused
from guardhouse.ids import ENROLLMENT_POLICY, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import Credential, Person
from guardhouse_services.identity.domain.enrollment_policies import (
    EnrollmentPolicy,
    PolicyDeletion,
    Subject,
    Verdict,
    evaluate,
)
from guardhouse_services.identity.store.tables import enrollment_policy
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.identity.usecases.seats import has_seat
from guardhouse_services.identity.usecases.verifier import Verifier, check_provider, service_token
from guardhouse_services.paging import Page

LIMIT = 500
"""How many an organization may have. Every enrollment evaluates them all."""
LISTED = 100
"""How many of the registrations that a policy admitted are named when it is deleted (decision 13)."""


class EnrollmentPolicies:
    """Creates, shows, changes, deletes and tries policies."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier

    async def create(self, call: Call, organization_id: str, draft: EnrollmentPolicy) -> tuple[EnrollmentPolicy, str]:
        """The policy and the revision token.

        Raises OrganizationNotFound, LimitReached, ServiceTokenNotFound, PrecedenceTaken, and InvalidField for rules
        that could never match.
        """

        def work(tx: Transaction) -> tuple[EnrollmentPolicy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                made = requests.recall(EnrollmentPolicy, done) or store.enrollment_policies.get(
                    tx, organization_id, done["enrollment_policy_id"]
                )
                return made, present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            made = replace(
                draft,
                enrollment_policy_id=new_id(ENROLLMENT_POLICY, tx.now),
                create_time=tx.now,
                update_time=tx.now,
            )
            made.check()
            store.organizations.check_room(tx, organization_id, enrollment_policy, LIMIT)
            store.service_tokens.lock(tx, organization_id, made.service_token_ids)
            store.enrollment_policies.insert(tx, organization_id, made)
            policy_id = made.enrollment_policy_id
            requests.record(tx, call, policy_id, enrollment_policy_id=policy_id, value=requests.remember(made))
            return made, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, enrollment_policy_id: str) -> EnrollmentPolicy:
        """Raises EnrollmentPolicyNotFound."""
        return await self._database.read(
            lambda tx: store.enrollment_policies.get(tx, organization_id, enrollment_policy_id)
        )

    async def page(self, organization_id: str, page: Page) -> Sequence[EnrollmentPolicy]:
        return await self._database.read(lambda tx: store.enrollment_policies.page(tx, organization_id, page))

    async def update(
        self, call: Call, organization_id: str, enrollment_policy_id: str, changes: dict[str, Any], etag: str = ""
    ) -> tuple[EnrollmentPolicy, str]:
        """Changes these fields. Raises EnrollmentPolicyNotFound, EtagMismatch and what `create` raises."""

        def work(tx: Transaction) -> tuple[EnrollmentPolicy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                changed = requests.recall(EnrollmentPolicy, done) or store.enrollment_policies.get(
                    tx, organization_id, enrollment_policy_id
                )
                return changed, present(tx, organization_id)
            found = store.enrollment_policies.get(tx, organization_id, enrollment_policy_id, lock=True)
            etags.check(messages.enrollment_policy(found).etag, etag)
            changed = replace(found, **changes, update_time=tx.now)
            changed.check()
            store.service_tokens.lock(tx, organization_id, changed.service_token_ids)
            store.enrollment_policies.update(tx, organization_id, changed)
            requests.record(tx, call, enrollment_policy_id, value=requests.remember(changed))
            return changed, publish(tx, organization_id)

        return await self._database.write(work)

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

    async def test(self, organization_id: str, tested: Credential | Subject) -> tuple[Verdict, bool]:
        """What would become of an enrollment, and whether there is a seat for it. Nothing is used up.

        Raises OrganizationNotFound and what verifying the credential raises.
        """
        proof = tested if isinstance(tested, Subject) else await self._verifier.prove(organization_id, tested)

        def work(tx: Transaction) -> tuple[Verdict, bool]:
            seats = store.organizations.seats(tx, organization_id)
            seat_available = seats.available is None or seats.available > 0
            if isinstance(proof, Subject):
                subject = proof
            elif isinstance(proof, Person):
                check_provider(tx, organization_id, proof)
                subject = Subject(email=proof.profile.email, groups=proof.profile.groups)
                user = store.users.find(tx, organization_id, proof)
                seat_available = seat_available or (user is not None and has_seat(tx, organization_id, user))
            else:
                subject, seat_available = Subject(service_token(tx, organization_id, proof).service_token_id), True
            return evaluate(store.enrollment_policies.all_of(tx, organization_id), subject), seat_available

        return await self._database.read(work)


def admit(tx: Transaction, organization_id: str, subject: Subject) -> str:
    """The id of the policy that admits the subject. Raises EnrollmentRefused."""
    verdict = evaluate(store.enrollment_policies.all_of(tx, organization_id), subject)
    if not verdict.admitted:
        raise EnrollmentRefused("no enrollment policy admits this identity; an administrator can say why")
    return verdict.enrollment_policy_id
