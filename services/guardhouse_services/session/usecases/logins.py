"""Signing in to applications, and whether somebody may use one (decision 31)."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from guardhouse.applications import Device, Outcome, Session, decide
from guardhouse.clock import Clock
from guardhouse.common.v1 import credential_pb2
from guardhouse.decisions import Decision, Profile, Reason, User
from guardhouse.errors import ApplicationNotFound
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.rules import Client
from guardhouse.times import from_timestamp
from guardhouse_services.access import Call
from guardhouse_services.directory import Directory
from guardhouse_services.session.application_tokens import ApplicationTokens
from guardhouse_services.session.replica import Replica
from guardhouse_services.session.session_tokens import SessionToken, SessionTokens
from guardhouse_services.session.usecases.sessions import Sessions

SIGN_INS = 20


@dataclass(frozen=True, slots=True)
class Checked:
    """What was decided for whom, as of when, and the token for the application. `staleness` is None for never."""

    outcome: Outcome
    registration_id: str
    now: int
    staleness: int | None
    application_token: str = ""
    application_token_expire_time: int = 0
    sign_ins: Sequence[identity.IdentityProvider] = ()


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The same of somebody who signs in; the rest is empty unless they may use the application."""

    checked: Checked
    session_token: str = ""
    binding: str = ""
    revision_token: str = ""


class Logins:
    """Begins sessions and judges them. Session keeps nothing of either: identity records who signed in."""

    def __init__(
        self,
        clock: Clock,
        directory: Directory,
        replica: Replica,
        sessions: Sessions,
        session_tokens: SessionTokens,
        application_tokens: ApplicationTokens,
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._replica = replica
        self._sessions = sessions
        self._session_tokens = session_tokens
        self._application_tokens = application_tokens

    async def log_in(
        self,
        call: Call,
        organization_id: str,
        application_id: str,
        registration_id: str,
        credential: credential_pb2.Credential,
        challenge: str,
        client: Client,
    ) -> LoggedIn:
        """Signs somebody in whom the application lets in, and records nothing of anybody else.

        So identity is asked twice: who it would be, and, once the application has said yes, to record it. A repeated
        request is recorded once and answered the same session. Raises ApplicationNotFound, StateStale and what
        Sessions.prepare and Sessions.record do.
        """
        await self._require_application(organization_id, application_id)
        purpose = f"log in {application_id} "
        request = await self._sessions.prepare(call, organization_id, registration_id, credential, challenge, purpose)
        # Without one it is always so.
        request.application = bool(registration_id)
        request.validate_only = True
        checked = self._sign_in(application_id, client, request, await self._sessions.record(request))
        if checked.outcome.verdict.decision is not Decision.ALLOW:
            return LoggedIn(checked)
        request.validate_only = False
        recorded = await self._sessions.record(request)
        checked = self._sign_in(application_id, client, request, recorded)
        if checked.outcome.verdict.decision is not Decision.ALLOW:
            # What it takes changed in between.
            return LoggedIn(checked)
        token = self._session_tokens.write(
            SessionToken(
                organization_id,
                recorded.service_token_id or recorded.user.user_id,
                recorded.identity_provider_id,
                from_timestamp(recorded.authenticate_time),
                recorded.authenticate_revision,
            )
        )
        application = self._replica.applications_of(organization_id).applications[application_id]
        binding = self._session_tokens.binding(token) if application.binding_cookie else ""
        return LoggedIn(checked, token, binding, recorded.revision_token)

    async def check(
        self,
        organization_id: str,
        application_id: str,
        registration_id: str | None,
        session_token: str,
        binding: str,
        client: Client,
    ) -> Checked:
        """Decides by the device, None for none and empty for one that nobody holds, and by a token of `log_in`."""
        asked = self._clock.steady()
        token = self._session_tokens.read(organization_id, session_token)
        if token is not None and token.user_id and token.user_id not in self._replica.of(organization_id)[0]:
            # Who holds a token of ours did sign in, maybe for the first time and a moment ago.
            await self._replica.identity.fresh(asked)
        session = None
        if token is not None:
            session = Session(
                token.user_id,
                token.service_token_id,
                token.identity_provider_id,
                token.authenticate_time,
                token.authenticate_revision,
                self._replica.of(organization_id)[0].get(token.user_id),
                self._session_tokens.is_bound(session_token, binding),
            )
        device = None if registration_id is None else self._device(organization_id, registration_id)
        return self._judge(organization_id, application_id, device, registration_id or "", session, client)

    def holder(self, organization_id: str, address: str) -> str:
        """The registration that holds an address; empty: none."""
        registry = self._replica.registrations.states.get(organization_id)
        subject = registry.holder(address) if registry is not None else None
        return subject.registration_id if subject is not None else ""

    def _sign_in(
        self,
        application_id: str,
        client: Client,
        request: identity.RecordAuthenticationRequest,
        recorded: identity.RecordAuthenticationResponse,
    ) -> Checked:
        """Judges by the session that begins, of somebody as they are by their credential."""
        self._replica.require_fresh()
        organization_id, registration_id = request.organization_id, request.registration_id
        time, revision = from_timestamp(recorded.authenticate_time), recorded.authenticate_revision
        user = None
        if recorded.HasField("user"):
            of = recorded.user
            known = self._replica.of(organization_id)[0].get(of.user_id) or User("")
            profile = Profile(of.email, of.display_name, tuple(of.groups), tuple(of.oidc_claims))
            user = User(of.user_id, known.removed_revision, known.revoked_revision, profile, of.issuer)
        session = Session(
            user.user_id if user is not None else "",
            recorded.service_token_id,
            recorded.identity_provider_id,
            time,
            revision,
            user,
            bound=True,
        )
        device = self._device(organization_id, registration_id) if registration_id else None
        if device is not None and device.registration is not None:
            renewed = structs.replace(device.registration, authenticate_time=time, authenticate_revision=revision)
            device = Device(renewed, user, recorded.identity_provider_id, device.passed)
        return self._judge(organization_id, application_id, device, registration_id, session, client, signing_in=True)

    def _judge(
        self,
        organization_id: str,
        application_id: str,
        device: Device | None,
        registration_id: str,
        session: Session | None,
        client: Client,
        *,
        signing_in: bool = False,
    ) -> Checked:
        """It waits for nothing, so all of the answer is of one moment."""
        replica = self._replica
        known, now = replica.applications_of(organization_id), replica.now()
        staleness = replica.staleness_of(organization_id)
        application = known.applications.get(application_id)
        outcome = decide(
            application, known.settings, device, session, client, now, staleness, replica.max_staleness, signing_in
        )
        token, expire_time = "", 0
        if outcome.verdict.decision is Decision.ALLOW:
            token, expire_time = self._application_tokens.sign(
                organization_id, application_id, outcome, registration_id, known.signing_keys.values(), now
            )
        sign_ins: Sequence[identity.IdentityProvider] = ()
        if outcome.verdict.decision is Decision.REAUTHENTICATE and application is not None:
            providers = self._directory.identity_providers(organization_id)
            if outcome.of_device and outcome.session is not None and outcome.verdict.reason is not Reason.LOGIN_METHOD:
                own = outcome.session.identity_provider_id
                sign_ins = [it for it in providers if it.identity_provider_id == own]
            else:
                sign_ins = [it for it in providers if application.takes(it.identity_provider_id)][:SIGN_INS]
        return Checked(outcome, registration_id, now, staleness, token, expire_time, sign_ins)

    def _device(self, organization_id: str, registration_id: str) -> Device:
        registration, user = self._replica.find(organization_id, registration_id)
        if registration is None:
            return Device(None)
        posture = self._replica.posture(organization_id, registration_id)
        providers = self._directory.identity_providers(organization_id) if user is not None else ()
        enrolled_by = (it.identity_provider_id for it in providers if user is not None and it.issuer == user.issuer)
        return Device(registration, user, next(enrolled_by, ""), posture[0] if posture is not None else ())

    async def _require_application(self, organization_id: str, application_id: str) -> None:
        asked = self._clock.steady()
        self._replica.require_fresh()
        if application_id in self._replica.applications_of(organization_id).applications:
            return
        # It may have been made a moment ago.
        await self._replica.own.fresh(asked)
        if application_id not in self._replica.applications_of(organization_id).applications:
            raise ApplicationNotFound(application_id)
