"""The registry's contract: checks the syntax of requests, calls the use cases, and builds the answers."""

from collections.abc import AsyncIterator, Sequence

from guardhouse.errors import FieldRequired
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, USER, check_id
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.clock import Clock
from guardhouse_services.feed import Feed, Send
from guardhouse_services.paging import Pages
from guardhouse_services.registry.domain import LISTED, Registration, State
from guardhouse_services.registry.messages import from_claims, to_device, to_registration, to_result
from guardhouse_services.registry.usecases import Enrollment, Registry
from guardhouse_services.times import to_timestamp

MAX_BATCH = 1000
TEXT_LIMIT = 255
CREDENTIAL_LIMIT = 16 << 10

_OUTCOMES = {
    State.PENDING: pb.INTENT_OUTCOME_PENDING,
    State.ACTIVE: pb.INTENT_OUTCOME_ACTIVE,
    State.REVOKED: pb.INTENT_OUTCOME_ACTIVE,
    State.ABORTED: pb.INTENT_OUTCOME_ABORTED,
    State.DELETED: pb.INTENT_OUTCOME_DELETED,
}
_FILTERS: dict[int, tuple[State, ...]] = {
    pb.REGISTRATION_FILTER_UNSPECIFIED: (State.ACTIVE,),
    pb.REGISTRATION_FILTER_ACTIVE: (State.ACTIVE,),
    pb.REGISTRATION_FILTER_REVOKED: (State.REVOKED,),
    pb.REGISTRATION_FILTER_ALL: LISTED,
}
_ACTIVE: dict[int, bool | None] = {
    pb.ACTIVE_REGISTRATIONS_UNSPECIFIED: True,
    pb.ACTIVE_REGISTRATIONS_ONLY: True,
    pb.ACTIVE_REGISTRATIONS_INCLUDE: None,
    pb.ACTIVE_REGISTRATIONS_EXCLUDE: False,
}


class RegistryServicer:
    """Every method of guardhouse.registry.v1."""

    def __init__(self, clock: Clock, registry: Registry, pages: Pages, feed: Feed) -> None:
        self.registry = registry
        self._clock = clock
        self._feed = feed
        self._pages = pages

    # EnrollmentService

    async def GetEnrollmentInfo(
        self, request: pb.GetEnrollmentInfoRequest, _call: Call
    ) -> pb.GetEnrollmentInfoResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        providers, challenge, expire_time = await self.registry.enrollment_info(request.organization_id)
        return pb.GetEnrollmentInfoResponse(
            sign_ins=[
                pb.SignIn(
                    identity_provider_id=provider.identity_provider_id,
                    display_name=provider.display_name,
                    issuer=provider.issuer,
                    client_ids=provider.client_ids,
                )
                for provider in providers
            ],
            challenge=challenge,
            challenge_expire_time=to_timestamp(expire_time),
            proof_key=self.registry.proof_key,
        )

    async def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.request_id(request.request_id, required=True)
        _check_credential(request)
        _check_claims(request.device)
        checks.choice(request.key_type, [pb.KEY_TYPE_CURVE25519], "key_type")
        for field in ("public_key", "challenge", "proof"):
            if not getattr(request, field):
                raise FieldRequired(field)
        enrolled = await self.registry.register(
            Enrollment(
                organization_id=request.organization_id,
                request_id=request.request_id,
                fingerprint=call.key.fingerprint,
                credential=request.credential,
                claims=from_claims(request.device),
                key_type=request.key_type,
                public_key=request.public_key,
                challenge=request.challenge,
                proof=request.proof,
            )
        )
        return pb.RegisterResponse(
            registration=to_registration(enrolled.registration),
            token=enrolled.token,
            device=to_device(enrolled.device),
            revision_token=enrolled.revision_token,
            identity_revision_token=enrolled.registration.identity_token,
        )

    async def ResolveIntent(self, request: pb.ResolveIntentRequest, _call: Call) -> pb.ResolveIntentResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.intent_id, REGISTRATION, "intent_id")
        state, lease_id = await self.registry.resolve_intent(request.organization_id, request.intent_id)
        return pb.ResolveIntentResponse(outcome=_OUTCOMES[state], lease_id=lease_id)

    # RegistrationService

    async def GetRegistration(self, request: pb.GetRegistrationRequest, _call: Call) -> pb.GetRegistrationResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        found = await self.registry.registration(request.organization_id, request.registration_id)
        return pb.GetRegistrationResponse(registration=to_registration(found))

    async def ListRegistrations(
        self, request: pb.ListRegistrationsRequest, _call: Call
    ) -> pb.ListRegistrationsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if request.state:
            checks.choice(request.state, list(_FILTERS), "state")
        if request.user_id:
            check_id(request.user_id, USER, "user_id")
        if request.device_id:
            check_id(request.device_id, DEVICE, "device_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        rows = await self.registry.registrations(
            request.organization_id, _FILTERS[request.state], request.user_id, request.device_id, page
        )
        shown, token = self._pages.cut(request, page, rows, lambda row: row.registration_id, now)
        return pb.ListRegistrationsResponse(registrations=map(to_registration, shown), next_page_token=token)

    async def RevokeRegistrations(
        self, request: pb.RevokeRegistrationsRequest, call: Call
    ) -> pb.RevokeRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.revoke(call, request.organization_id, ids)
        held = sum(isinstance(outcome, Registration) for _, outcome in batch.outcomes)
        return pb.RevokeRegistrationsResponse(
            results=[to_result(*outcome) for outcome in batch.outcomes],
            # Each holds one address of either family.
            addresses_held=2 * held,
            revision_token=batch.revision_token,
        )

    async def UnrevokeRegistrations(
        self, request: pb.UnrevokeRegistrationsRequest, call: Call
    ) -> pb.UnrevokeRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.unrevoke(call, request.organization_id, ids)
        results = [to_result(*outcome) for outcome in batch.outcomes]
        return pb.UnrevokeRegistrationsResponse(results=results, revision_token=batch.revision_token)

    async def DeleteRegistrations(
        self, request: pb.DeleteRegistrationsRequest, call: Call
    ) -> pb.DeleteRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.delete(call, request.organization_id, ids)
        results = [to_result(*outcome) for outcome in batch.outcomes]
        return pb.DeleteRegistrationsResponse(results=results, revision_token=batch.revision_token)

    # DeviceService

    async def GetDevice(self, request: pb.GetDeviceRequest, _call: Call) -> pb.GetDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        return pb.GetDeviceResponse(
            device=to_device(await self.registry.device(request.organization_id, request.device_id))
        )

    async def ListDevices(self, request: pb.ListDevicesRequest, _call: Call) -> pb.ListDevicesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if request.active_registrations:
            checks.choice(request.active_registrations, list(_ACTIVE), "active_registrations")
        now = self._clock.now()
        page = self._pages.read(request, now)
        rows = await self.registry.devices(request.organization_id, _ACTIVE[request.active_registrations], page)
        shown, token = self._pages.cut(request, page, rows, lambda row: row.device_id, now)
        return pb.ListDevicesResponse(devices=map(to_device, shown), next_page_token=token)

    async def DeleteDevice(self, request: pb.DeleteDeviceRequest, call: Call) -> pb.DeleteDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        deleted, token = await self.registry.delete_device(call, request.organization_id, request.device_id)
        return pb.DeleteDeviceResponse(registrations_deleted=deleted, revision_token=token)

    # RegistryFeedService

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], send: Send) -> None:
        await self._feed.watch(requests, send)


def _ids(organization_id: str, ids: Sequence[str]) -> list[str]:
    """The ids of a batch, each once."""
    check_id(organization_id, ORGANIZATION, "organization_id")
    checks.count(ids, "registration_ids", MAX_BATCH)
    return list(dict.fromkeys(check_id(each, REGISTRATION, f"registration_ids[{at}]") for at, each in enumerate(ids)))


def _check_credential(request: pb.RegisterRequest) -> None:
    match request.credential.WhichOneof("kind"):
        case "id_token":
            checks.text(request.credential.id_token, "credential.id_token", CREDENTIAL_LIMIT)
        case "service_token":
            token = request.credential.service_token
            checks.text(token.client_id, "credential.service_token.client_id", TEXT_LIMIT)
            checks.text(token.client_secret, "credential.service_token.client_secret", TEXT_LIMIT)
        case _:
            raise FieldRequired("credential", "credential is required: an id_token or a service_token")


def _check_claims(claims: pb.DeviceClaims) -> None:
    checks.text(claims.hardware_id, "device.hardware_id", TEXT_LIMIT)
    for field in ("display_name", "os_version", "client_version", "serial_number", "model", "manufacturer"):
        checks.text(getattr(claims, field), f"device.{field}", TEXT_LIMIT, required=False)
    if claims.platform:
        checks.choice(claims.platform, pb.Platform.values(), "device.platform")
