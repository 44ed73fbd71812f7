"""Authentication facts: who signed in again for which registration, or to an application, and when (decision 27)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from guardhouse.durations import MINUTE
from guardhouse.errors import (
    ChallengeInvalid,
    DifferentUser,
    FieldRequired,
    IdTokenInvalid,
    RegistrationNotFound,
    SeatsExhausted,
    UserBlocked,
    UserRemoved,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import USER, new_id
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import Credential, IdentityProvider, Person
from guardhouse_services.identity.domain.enrollments import Authentication, Registration
from guardhouse_services.identity.domain.users import SeatEvent, User
from guardhouse_services.identity.usecases import seats
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.identity.usecases.verifier import Verifier, actor, check_provider, service_token

OTHER = "the credential is not of whoever holds the registration; its timer is untouched"
ASKED_AGO = 10 * MINUTE
"""How long ago an authentication may have been asked for, as the contract has it."""
ASKED_SKEW = 1 * MINUTE
"""How far the clocks of replicas may be apart."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An authentication: of a person, as of now, at an identity provider, or of a machine.

    A removal or revocation at or behind its `revision` ends what it began.
    """

    authenticate_time: int
    revision: int
    user: User | None = None
    service_token_id: str = ""
    identity_provider_id: str = ""
    revision_token: str = ""


class Authentications:
    """Records authentications."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier

    async def record(
        self,
        call: Call,
        organization_id: str,
        holder: Registration | None,
        credential: Credential,
        asker: str = "",
        asked_time: int | None = None,
        *,
        application: bool = False,
        validate_only: bool = False,
    ) -> Recorded:
        """Starts a registration's timer anew, or without a `holder` has somebody sign in to an application.

        `holder` says whose the registration must be, `asker` who asked session for it, and `asked_time` when; with
        `application` somebody signs in to one through the registration's device. Raises DifferentUser for anybody else
        (invariant I-11), UserBlocked for who was off-boarded, UserRemoved when the holder's removal hit the
        registration, RegistrationNotFound for one that is known to be gone; SeatsExhausted without a registration, for
        it takes a seat like an enrollment (decision 2); what verifying the credential raises, and what `_check_asked`
        and `_check_interaction` do.
        """

        def done(tx: Transaction) -> Recorded | None:
            found = _done(tx, call, organization_id, holder)
            return replace(found, revision_token="") if found and validate_only else found

        def look(tx: Transaction) -> tuple[Recorded | None, IdentityProvider | None]:
            answer = done(tx)
            return answer, None if answer else self._verifier.provider(tx, organization_id, credential)

        answer, provider = await self._database.read(look)
        if answer is not None:
            return answer
        proof = await self._verifier.verify(provider, credential)

        def work(tx: Transaction) -> Recorded:
            if (answer := done(tx)) is not None:
                return answer
            store.organizations.require(tx, organization_id)
            _check_asked(asked_time, tx.now)
            known = _known(tx, organization_id, holder) if holder else None
            user, is_new, service_token_id, provider_id, at = None, False, "", "", tx.now
            events: list[pb.Event] = []
            if isinstance(proof, Person):
                provider = check_provider(tx, organization_id, proof)
                if holder or asked_time is not None:
                    _check_interaction(provider, proof, asked_time)
                use = f"{'authentication' if holder else 'access'}/{call.key.request_id}"
                store.intents.use_token(tx, organization_id, proof.token_hash, use)
                if holder and known:
                    user = _check_person(tx, organization_id, proof, holder, known)
                else:
                    user, is_new = store.users.lock_or_create(tx, organization_id, proof, new_id(USER, tx.now))
                    user.check_not_blocked()
                    if not validate_only:
                        # Whoever asks first decides whether the person may come in: seats come last (decision 3).
                        seats.take(tx, organization_id, user, is_new=is_new)
                provider_id, at = provider.identity_provider_id, min(tx.now, proof.issue_time)
                # An authentication makes a seat that was only reserved one for good (decision 2).
                user = user.authenticated(proof.profile, at)
                if holder:
                    user = user.seated(tx.now, SeatEvent.GATEWAY, holder.registration_id)
                if application or not holder:
                    user = user.seated(tx.now, SeatEvent.ACCESS, call.key.request_id)
                store.users.save(tx, organization_id, [user])
                events.append(messages.user_event(user))
            else:
                token = service_token(tx, organization_id, proof)
                service_token_id = token.service_token_id
                if holder and known and not service_token_id == holder.service_token_id == known.service_token_id:
                    raise DifferentUser(OTHER)
                store.service_tokens.saw(tx, organization_id, token)
            revision = tx.advance(organization_id)
            if known:
                made = Authentication(known.registration_id, max(at, known.authenticate_time), revision)
                made = store.registrations.authenticate(tx, organization_id, made)
                at = made.authenticate_time
                events.insert(0, messages.authentication_event(made))
            recorded = Recorded(at, revision, user, service_token_id, provider_id)
            _remember(tx, call, recorded, holder.registration_id if holder else "", asker)
            if user and is_new and validate_only:
                # Whoever is not there yet, and stays so, has no id.
                recorded = replace(recorded, user=replace(user, user_id=""))
            return replace(recorded, revision_token=publish(tx, organization_id, events, revision))

        def refused(tx: Transaction, reason: str) -> None:
            objects = [holder.registration_id] if holder else []
            audit.note(tx, call, *objects, actor=actor(tx, organization_id, proof), reason=reason)

        try:
            # Those who take seats wait for the same row.
            turn = "" if holder else organization_id
            return await self._database.write(work, validate_only=validate_only, turn=turn)
        except (DifferentUser, SeatsExhausted, UserBlocked, UserRemoved) as refusal:
            if not validate_only:
                await self._database.write(partial(refused, reason=refusal.reason))
            raise

    async def revoke(
        self, call: Call, organization_id: str, registration_ids: Sequence[str], asker: str = ""
    ) -> tuple[Collection[str], str]:
        """Ends the sessions of registrations. Those that are gone, and the revision token."""

        def work(tx: Transaction) -> tuple[Collection[str], str]:
            if (done := requests.find(tx, call.key)) is not None:
                return done["gone"], present(tx, organization_id)
            store.organizations.require(tx, organization_id)
            gone = store.registrations.gone(tx, organization_id, registration_ids)
            left = [each for each in registration_ids if each not in gone]
            requests.record(tx, call, *left, actor=asker, gone=sorted(gone))
            if not left:
                return gone, present(tx, organization_id)
            revision = tx.advance(organization_id)
            revoked = store.registrations.revoke_sessions(tx, organization_id, left, revision)
            return gone, publish(tx, organization_id, [messages.authentication_event(it) for it in revoked], revision)

        return await self._database.write(work)


def _done(tx: Transaction, call: Call, organization_id: str, holder: Registration | None) -> Recorded | None:
    """What the same request has recorded."""
    if (result := requests.find(tx, call.key)) is None:
        return None
    token = present(tx, organization_id)
    if "authenticate_revision" in result:
        user = store.users.get(tx, organization_id, result["user_id"]) if result["user_id"] else None
        return Recorded(
            result["authenticate_time"],
            result["authenticate_revision"],
            user,
            result["service_token_id"],
            result["identity_provider_id"],
            token,
        )
    # A release that remembered only the time, or nothing, has recorded it, and knew of registrations only.
    if holder is None:
        raise AssertionError("unreachable: it is another request, and is refused as one")
    found = store.registrations.authentication_of(tx, organization_id, holder.registration_id)
    time = result.get("authenticate_time", found and found.authenticate_time)
    if time is None:
        raise RegistrationNotFound(holder.registration_id)
    user, provider = None, None
    if holder.user_id:
        user = store.users.get(tx, organization_id, holder.user_id)
        provider = store.identity_providers.find(tx, organization_id, user.issuer)
    provider_id = provider.identity_provider_id if provider else ""
    return Recorded(time, found.revision if found else 0, user, holder.service_token_id, provider_id, token)


def _remember(tx: Transaction, call: Call, recorded: Recorded, registration_id: str, asker: str) -> None:
    user_id = recorded.user.user_id if recorded.user else ""
    requests.record(
        tx,
        call,
        registration_id or user_id or recorded.service_token_id,
        actor=asker,
        authenticate_time=recorded.authenticate_time,
        authenticate_revision=recorded.revision,
        user_id=user_id,
        service_token_id=recorded.service_token_id,
        identity_provider_id=recorded.identity_provider_id,
    )


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


def _known(tx: Transaction, organization_id: str, holder: Registration) -> Registration:
    """The registration, as far as anybody has told. Raises RegistrationNotFound when it is gone."""
    seen = store.registrations.get(tx, organization_id, holder.registration_id)
    if seen is not None and seen.delete_time is not None:
        raise RegistrationNotFound(holder.registration_id)
    # The registry's feed may not have told of it here yet.
    return seen if seen is not None and seen.authorize_revision else holder


def _check_person(
    tx: Transaction, organization_id: str, person: Person, holder: Registration, known: Registration
) -> User:
    """The registration's user, locked."""
    user = store.users.find(tx, organization_id, person, lock=True)
    if user is None or user.user_id != holder.user_id or user.user_id != known.user_id:
        raise DifferentUser(OTHER)
    user.check_not_blocked()
    if known.authorize_revision and known.authorize_revision <= user.removed_revision:
        raise UserRemoved("the user was removed; enroll the device again")
    if not seats.has_seat(tx, organization_id, user):
        # Not known of here yet: but whoever enrolled behind a removal has a seat.
        raise UserRemoved("the user was removed; enroll the device again")
    return user
