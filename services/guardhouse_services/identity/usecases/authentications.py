"""Authentication facts: who signed in again for which registration, and when (decision 27)."""

from functools import partial

from guardhouse.clock import MINUTE
from guardhouse.errors import (
    ChallengeInvalid,
    DifferentUser,
    FieldRequired,
    IdTokenInvalid,
    RegistrationNotFound,
    UserRemoved,
)
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import Credential, IdentityProvider, Person, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollments import Authentication, Registration
from guardhouse_services.identity.domain.users import User
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.identity.usecases.seats import has_seat
from guardhouse_services.identity.usecases.verifier import Verifier, actor, check_provider, service_token

OTHER = "the credential is not of whoever holds the registration; its timer is untouched"
ASKED_AGO = 10 * MINUTE
"""How long ago an authentication may have been asked for, as the contract has it."""
ASKED_SKEW = 1 * MINUTE
"""How far the clocks of replicas may be apart."""

Recorded = tuple[int, User | None, str]
"""Where a timer starts, the person as of now, if it is one, and the revision token."""


class Authentications:
    """Records authentications."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier

    async def record(
        self,
        call: Call,
        organization_id: str,
        registration_id: str,
        holder: Registration,
        credential: Credential,
        asker: str = "",
        asked_time: int | None = None,
    ) -> Recorded:
        """`holder` says whose the registration must be, `asker` who asked session for it, and `asked_time` when.

        Raises DifferentUser for anybody else (invariant I-11), UserRemoved when the holder's removal hit the
        registration, RegistrationNotFound for one that is known to be gone, what verifying the credential raises, and
        what `_check_asked` and `_check_interaction` do.
        """

        def done(tx: Transaction) -> Recorded | None:
            if (result := requests.find(tx, call.key)) is None:
                return None
            user = store.users.get(tx, organization_id, holder.user_id) if holder.user_id else None
            if "authenticate_time" in result:
                return result["authenticate_time"], user, present(tx, organization_id)
            # A release that remembered nothing has recorded it.
            if (found := store.registrations.authentication_of(tx, organization_id, registration_id)) is None:
                raise RegistrationNotFound(registration_id)
            return found.authenticate_time, user, present(tx, organization_id)

        if (answer := await self._database.read(done)) is not None:
            return answer
        proof = await self._verifier.prove(organization_id, credential)

        def work(tx: Transaction) -> Recorded:
            if (answer := done(tx)) is not None:
                return answer
            store.organizations.require(tx, organization_id)
            _check_asked(asked_time, tx.now)
            seen = store.registrations.get(tx, organization_id, registration_id)
            if seen is not None and seen.delete_time is not None:
                raise RegistrationNotFound(registration_id)
            # The registry's feed may not have told of it here yet.
            known = seen if seen is not None and seen.authorize_revision else holder
            events = []
            at, user = tx.now, None
            if isinstance(proof, Person):
                _check_interaction(check_provider(tx, organization_id, proof), proof, asked_time)
                use = f"authentication/{call.key.request_id}"
                user = _check_person(tx, organization_id, proof, use, holder, known)
                at = min(tx.now, proof.issue_time)
                user = user.authenticated(proof.profile, at)
                if has_seat(tx, organization_id, user):
                    # An authentication makes a seat that was only reserved one for good (decision 2).
                    user = user.seated(tx.now)
                store.users.save(tx, organization_id, [user])
                events.append(messages.user_event(user))
            else:
                _check_machine(tx, organization_id, proof, holder, known)
            revision = tx.advance(organization_id)
            made = Authentication(registration_id, max(at, known.authenticate_time), revision)
            made = store.registrations.authenticate(tx, organization_id, made)
            time = made.authenticate_time
            requests.record(tx, call, registration_id, actor=asker, authenticate_time=time)
            token = publish(tx, organization_id, [messages.authentication_event(made), *events], revision)
            return time, user, token

        def refused(tx: Transaction, reason: str) -> None:
            audit.note(tx, call, registration_id, actor=actor(tx, organization_id, proof), reason=reason)

        try:
            return await self._database.write(work)
        except (DifferentUser, UserRemoved) as refusal:
            await self._database.write(partial(refused, reason=refusal.reason))
            raise


def _check_asked(asked_time: int | None, now: int) -> None:
    """Raises ChallengeInvalid when it was too long ago. What was recorded then is answered all the same."""
    if asked_time is not None and not -ASKED_SKEW <= now - asked_time <= ASKED_AGO:
        raise ChallengeInvalid("asked_time", "it was asked for more than 10 minutes ago; ask again")


def _check_interaction(provider: IdentityProvider, person: Person, asked_time: int | None) -> None:
    """Raises FieldRequired, and IdTokenInvalid for a sign-in that was made before it was asked for (decision 33).

    Providers tell whole seconds and drop the rest, so one in the same second may have been made before, and does not
    count.
    """
    if not provider.force_interaction:
        return
    if asked_time is None:
        raise FieldRequired("asked_time", "the identity provider has force_interaction: say when it was asked for")
    if person.auth_time is None:
        raise IdTokenInvalid(detail="auth_time is missing, and the identity provider has force_interaction")
    if person.auth_time <= asked_time:
        raise IdTokenInvalid(detail="auth_time is not later than the challenge: the person must sign in anew")


def _check_person(
    tx: Transaction, organization_id: str, person: Person, use: str, holder: Registration, known: Registration
) -> User:
    """The user, locked."""
    store.intents.use_token(tx, organization_id, person.token_hash, use)
    user = store.users.find(tx, organization_id, person, lock=True)
    if user is None or user.user_id != holder.user_id or user.user_id != known.user_id:
        raise DifferentUser(OTHER)
    if known.authorize_revision and known.authorize_revision <= user.removed_revision:
        raise UserRemoved("the user was removed; enroll the device again")
    if not has_seat(tx, organization_id, user):
        # Not known of here yet: but whoever enrolled behind a removal has a seat.
        raise UserRemoved("the user was removed; enroll the device again")
    return user


def _check_machine(
    tx: Transaction, organization_id: str, secret: ServiceTokenSecret, holder: Registration, known: Registration
) -> None:
    service_token_id = service_token(tx, organization_id, secret).service_token_id
    if not service_token_id == holder.service_token_id == known.service_token_id:
        raise DifferentUser(OTHER)
