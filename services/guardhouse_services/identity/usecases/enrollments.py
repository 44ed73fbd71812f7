"""Enrollments, as far as identity has a say in them: authenticate, policy, seat, in this order (decision 3)."""

from functools import partial

from guardhouse.durations import MINUTE
from guardhouse.errors import EnrollmentAborted, EnrollmentRefused, SeatsExhausted, UserBlocked
from guardhouse.ids import USER, new_id
from guardhouse.rules import NOWHERE, Client, Identity
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import Credential, IdentityProvider, Person, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollments import Intent, IntentState
from guardhouse_services.identity.usecases import seats
from guardhouse_services.identity.usecases.enrollment_policies import admit, as_identity
from guardhouse_services.identity.usecases.history import present
from guardhouse_services.identity.usecases.verifier import Verifier, actor, check_provider, service_token

# How long an intent may stay undecided before the registry is asked about it.
ASK_AFTER = MINUTE


class Enrollments:
    """What the registry asks for while it enrolls a device."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier

    async def authorize(
        self, call: Call, organization_id: str, intent_id: str, credential: Credential, client: Client = NOWHERE
    ) -> tuple[Intent, str]:
        """Reserves a seat for whoever the credential proves, if policy admits them. The intent and a revision token.

        An intent that was authorized before is answered as it was, even if its ID token has expired since. Raises
        EnrollmentAborted for one that is off, OrganizationNotFound, UserBlocked, EnrollmentRefused, SeatsExhausted and
        what verifying the credential raises; nothing has changed then. Who was refused is on record.
        """

        def look(tx: Transaction) -> tuple[tuple[Intent, str] | None, IdentityProvider | None]:
            done = _authorized(tx, organization_id, intent_id)
            return done, None if done else self._verifier.provider(tx, organization_id, credential)

        done, provider = await self._database.read(look)
        if done is not None:
            return done
        proof = await self._verifier.verify(provider, credential)

        def work(tx: Transaction) -> tuple[Intent, str]:
            if (done := _authorized(tx, organization_id, intent_id)) is not None:
                return done
            if isinstance(proof, Person):
                return _authorize_person(tx, call, organization_id, intent_id, proof, client)
            return _authorize_machine(tx, call, organization_id, intent_id, proof, client)

        def refused(tx: Transaction, reason: str) -> None:
            audit.note(tx, call, intent_id, actor=actor(tx, organization_id, proof), reason=reason)

        try:
            return await self._database.write(work, turn=organization_id)
        except (EnrollmentRefused, SeatsExhausted, UserBlocked) as refusal:
            await self._database.write(partial(refused, reason=refusal.reason))
            raise

    async def cancel(self, call: Call, organization_id: str, intent_id: str) -> None:
        """Gives back what the intent reserved, and refuses it from now on. Done again, it changes nothing."""

        def work(tx: Transaction) -> None:
            if seats.cancel(tx, organization_id, intent_id):
                audit.note(tx, call, intent_id)

        await self._database.write(work)


def _authorized(tx: Transaction, organization_id: str, intent_id: str) -> tuple[Intent, str] | None:
    intent = store.intents.get(tx, organization_id, intent_id)
    if intent is None:
        return None
    if intent.refused:
        raise EnrollmentAborted("the enrollment was aborted; start a new attempt")
    return intent, present(tx, organization_id)


def _authorize_person(
    tx: Transaction, call: Call, organization_id: str, intent_id: str, person: Person, client: Client
) -> tuple[Intent, str]:
    provider = check_provider(tx, organization_id, person)
    # A new attempt of the same Register brings the same token.
    store.intents.use_token(tx, organization_id, person.token_hash, f"enrollment/{call.key.request_id}")
    user, is_new = store.users.lock_or_create(tx, organization_id, person, new_id(USER, tx.now))
    # Before the policies: none of them admits whom an administrator has off-boarded.
    user.check_not_blocked()
    policy_id = admit(tx, organization_id, as_identity(person, provider), client)
    seats.take(tx, organization_id, user, is_new=is_new)
    # A new user is published at once: whoever follows must know the user when the registration arrives. Another one's
    # lock is held, so that a removal is at or before this revision, or comes behind it.
    revision = tx.publish(organization_id, [messages.user_event(user)]) if is_new else tx.revision(organization_id)
    intent = Intent(
        intent_id=intent_id,
        state=IntentState.RESERVED,
        create_time=tx.now,
        ask_time=tx.now + ASK_AFTER,
        user_id=user.user_id,
        enrollment_policy_id=policy_id,
        profile=person.profile,
        authenticate_time=min(tx.now, person.issue_time),
        authorize_revision=revision + 1,
    )
    store.intents.insert(tx, organization_id, intent)
    audit.note(tx, call, intent_id, user.user_id, actor=f"user:{user.user_id}")
    return intent, tx.token(organization_id, revision)


def _authorize_machine(
    tx: Transaction, call: Call, organization_id: str, intent_id: str, credential: ServiceTokenSecret, client: Client
) -> tuple[Intent, str]:
    """It takes no seat (decision 2)."""
    store.organizations.require(tx, organization_id)
    token = service_token(tx, organization_id, credential)
    policy_id = admit(tx, organization_id, Identity(token.service_token_id), client)
    store.service_tokens.saw(tx, organization_id, token)
    revision = tx.revision(organization_id)
    intent = Intent(
        intent_id=intent_id,
        state=IntentState.RESERVED,
        create_time=tx.now,
        ask_time=tx.now + ASK_AFTER,
        service_token_id=token.service_token_id,
        enrollment_policy_id=policy_id,
        authenticate_time=tx.now,
        authorize_revision=revision + 1,
        expire_after=token.expire_registrations_after,
    )
    store.intents.insert(tx, organization_id, intent)
    audit.note(tx, call, intent_id, actor=f"service_token:{token.service_token_id}")
    return intent, tx.token(organization_id, revision)
