"""The registry's contract: checks the syntax of requests, calls the use cases, and builds the answers."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence

from guardhouse.clock import Clock
from guardhouse.device_profiles import DeviceProfile, Settings, Subject
from guardhouse.durations import HOUR, optional_duration, parse_duration
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField, PageTokenInvalid
from guardhouse.ids import (
    DEVICE,
    DEVICE_PROFILE,
    HELD_ACTION,
    ORGANIZATION,
    REGISTRATION,
    SERVICE_TOKEN,
    USER,
    check_id,
)
from guardhouse.keys import KEY_TYPES
from guardhouse.os_sessions import OsEvent
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import optional_timestamp, to_timestamp
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.breaker.domain import HeldAction, HeldState
from guardhouse_services.calls import Stream
from guardhouse_services.feed import Feed
from guardhouse_services.paging import Page, Pages
from guardhouse_services.proxies import client
from guardhouse_services.registry import reading
from guardhouse_services.registry.domain import (
    LISTED,
    OVERRIDE_DIGITS,
    Claims,
    Cursor,
    DeviceFilter,
    End,
    Order,
    Range,
    Registration,
    RegistrationFilter,
    State,
    count_users,
)
from guardhouse_services.registry.messages import (
    from_claims,
    from_multi_user,
    from_posture,
    to_configuration,
    to_device,
    to_device_profile,
    to_gateway,
    to_held_action,
    to_key,
    to_matching,
    to_os_session,
    to_position,
    to_present_key,
    to_registration,
    to_result,
    to_step,
)
from guardhouse_services.registry.usecases import Registry
from guardhouse_services.registry.usecases.callers import DeviceCaller
from guardhouse_services.registry.usecases.enrollments import Enrollment
from guardhouse_services.registry.usecases.os_sessions import Report
from guardhouse_services.registry.usecases.rotations import Rotation

MAX_USERS = 100
SEARCH_LIMIT = 100
TEXT_LIMIT = 255
CREDENTIAL_LIMIT = 16 << 10
MAX_TAGS = 10
TAG_KEY = re.compile(r"[A-Za-z0-9._/-]{1,64}")
TAG_LIMIT = 1024
MAX_CHECKS = 100
CHECK_LIMIT = 100
FAMILIES = 2
"""Every registration has one address of either family (decision 23)."""

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
_ENDS = {End.REVOKED: pb.REGISTRATION_END_REVOKED, End.SILENT: pb.REGISTRATION_END_SILENT}
_ACTIVE: dict[int, bool | None] = {
    pb.ACTIVE_REGISTRATIONS_UNSPECIFIED: True,
    pb.ACTIVE_REGISTRATIONS_ONLY: True,
    pb.ACTIVE_REGISTRATIONS_INCLUDE: None,
    pb.ACTIVE_REGISTRATIONS_EXCLUDE: False,
}
_ORDERS = {"create_time": Order.CREATE, "seen_time": Order.SEEN}
_REGISTRATION_ORDERS = {
    **_ORDERS,
    "registration_id": Order.ID,
    "user_email": Order.USER_EMAIL,
    "user_display_name": Order.USER_NAME,
}
_DEVICE_ORDERS = {
    **_ORDERS,
    "device_id": Order.ID,
    "claims.display_name": Order.NAME,
    "claims.client_version": Order.VERSION,
    "active_registrations": Order.ACTIVE,
    "last_seen_user.email": Order.USER_EMAIL,
}
_ListRequest = pb.ListRegistrationsRequest | pb.ListDevicesRequest


class RegistryServicer:
    """Every method of guardhouse.registry.v1."""

    def __init__(self, clock: Clock, registry: Registry, pages: Pages, feed: Feed, audit: Audit) -> None:
        self.registry = registry
        self._clock = clock
        self._feed = feed
        self._audit = audit
        self._pages = pages

    # EnrollmentService

    async def GetEnrollmentInfo(
        self, request: pb.GetEnrollmentInfoRequest, _call: Call
    ) -> pb.GetEnrollmentInfoResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        providers, device_flow, challenge, expire_time = await self.registry.enrollments.info(request.organization_id)
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
            device_flow=device_flow,
        )

    async def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.request_id(request.request_id, required=True)
        _check_credential(request)
        _check_claims(request.device)
        if request.HasField("multi_user"):
            _check_multi_user(request)
        _check_key(request)
        enrolled = await self.registry.enrollments.register(
            call,
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
                client=client.get(),
                managed=request.managed,
                os_user=from_multi_user(request.multi_user) if request.HasField("multi_user") else None,
            ),
        )
        return pb.RegisterResponse(
            registration=to_registration(enrolled.registration),
            token=enrolled.token,
            device=to_device(enrolled.device),
            revision_token=enrolled.revision_token,
            identity_revision_token=enrolled.registration.identity_token,
            configuration=await self._configuration(enrolled.registration),
        )

    async def ResolveIntent(self, request: pb.ResolveIntentRequest, call: Call) -> pb.ResolveIntentResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.intent_id, REGISTRATION, "intent_id")
        state, lease_id = await self.registry.enrollments.resolve(call, request.organization_id, request.intent_id)
        return pb.ResolveIntentResponse(outcome=_OUTCOMES[state], lease_id=lease_id)

    # RegistrationService

    async def GetRegistration(self, request: pb.GetRegistrationRequest, _call: Call) -> pb.GetRegistrationResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        found = await self.registry.registrations.get(request.organization_id, request.registration_id)
        return pb.GetRegistrationResponse(
            registration=to_registration(found), configuration=await self._configuration(found)
        )

    async def ListRegistrations(
        self, request: pb.ListRegistrationsRequest, _call: Call
    ) -> pb.ListRegistrationsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if request.state:
            checks.choice(request.state, list(_FILTERS), "state")
        for field, kind in (
            ("user_id", USER),
            ("service_token_id", SERVICE_TOKEN),
            ("device_id", DEVICE),
            ("device_profile_id", DEVICE_PROFILE),
        ):
            if value := getattr(request, field):
                check_id(value, kind, field)
        now = self._clock.now()
        page = self._pages.read(request, now)
        wanted = RegistrationFilter(
            _FILTERS[request.state],
            request.user_id,
            request.service_token_id,
            request.device_id,
            ids=checks.ids(request.registration_ids, "registration_ids", REGISTRATION),
            user_ids=checks.ids(request.user_ids, "user_ids", USER, MAX_USERS),
            search=_search(request),
            device_profile_id=request.device_profile_id,
        )
        asked = _range(request, page, _REGISTRATION_ORDERS)
        found = await self.registry.registrations.page(request.organization_id, wanted, asked)
        shown, token = self._pages.cut(
            request, page, found.rows, lambda row: _cursor(row.place(asked.order)), now, end=_cursor(found.end)
        )
        return pb.ListRegistrationsResponse(registrations=map(to_registration, shown), next_page_token=token)

    async def RevokeRegistrations(
        self, request: pb.RevokeRegistrationsRequest, call: Call
    ) -> pb.RevokeRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.registrations.revoke(
            call, request.organization_id, ids, validate_only=request.validate_only
        )
        held = [it for _, it in batch.outcomes if isinstance(it, Registration) and it.state in LISTED]
        return pb.RevokeRegistrationsResponse(
            results=[to_result(*outcome) for outcome in batch.outcomes],
            addresses_held=FAMILIES * len(held),
            revision_token=batch.revision_token,
            registrations_revoked=len(held),
            users=count_users(held),
        )

    async def UnrevokeRegistrations(
        self, request: pb.UnrevokeRegistrationsRequest, call: Call
    ) -> pb.UnrevokeRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.registrations.unrevoke(
            call, request.organization_id, ids, validate_only=request.validate_only
        )
        results = [to_result(*outcome) for outcome in batch.outcomes]
        return pb.UnrevokeRegistrationsResponse(results=results, revision_token=batch.revision_token)

    async def DeleteRegistrations(
        self, request: pb.DeleteRegistrationsRequest, call: Call
    ) -> pb.DeleteRegistrationsResponse:
        ids = _ids(request.organization_id, request.registration_ids)
        batch = await self.registry.registrations.delete(
            call, request.organization_id, ids, validate_only=request.validate_only
        )
        gone = [it for _, it in batch.outcomes if isinstance(it, Registration)]
        return pb.DeleteRegistrationsResponse(
            results=[to_result(*outcome) for outcome in batch.outcomes],
            addresses_released=FAMILIES * len(gone),
            revision_token=batch.revision_token,
            registrations_deleted=len(gone),
            users=count_users(gone),
        )

    async def GetRegistrationUsage(
        self, request: pb.GetRegistrationUsageRequest, _call: Call
    ) -> pb.GetRegistrationUsageResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        usage, keeps = await self.registry.lifetimes.usage(request.organization_id)
        return pb.GetRegistrationUsageResponse(
            active_registrations=usage.active,
            revoked_registrations=usage.revoked,
            active_addresses=FAMILIES * usage.active,
            revoked_addresses=FAMILIES * usage.revoked,
            oldest_revoke_time=optional_timestamp(usage.oldest_revoke_time),
            delete_revoked_after=optional_duration(keeps),
        )

    async def PreviewRegistrationExpiration(
        self, request: pb.PreviewRegistrationExpirationRequest, _call: Call
    ) -> pb.PreviewRegistrationExpirationResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        keeps = _keeps(request.delete_revoked_after) if request.delete_revoked_after else None
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.registry.lifetimes.preview(request.organization_id, page, keeps)
        shown, token = self._pages.cut(request, page, found, lambda it: it[0].registration_id, now)
        return pb.PreviewRegistrationExpirationResponse(
            expired_registrations=[
                pb.ExpiredRegistration(registration=to_registration(it), end=_ENDS[end]) for it, end in shown
            ],
            next_page_token=token,
        )

    async def RotateKey(self, request: pb.RotateKeyRequest, call: Call) -> pb.RotateKeyResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        checks.request_id(request.request_id, required=True)
        if not request.current_public_key:
            raise FieldRequired("current_public_key")
        _check_key(request)
        rotated, token = await self.registry.rotations.rotate(
            call,
            Rotation(
                organization_id=request.organization_id,
                registration_id=request.registration_id,
                current_public_key=request.current_public_key,
                key_type=request.key_type,
                public_key=request.public_key,
                challenge=request.challenge,
                proof=request.proof,
            ),
        )
        return pb.RotateKeyResponse(registration=to_registration(rotated), revision_token=token)

    async def ListRegistrationKeys(
        self, request: pb.ListRegistrationKeysRequest, _call: Call
    ) -> pb.ListRegistrationKeysResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found, former, since = await self.registry.registrations.keys(
            request.organization_id, request.registration_id, int(page.after or 0), page.size + 1
        )
        keys = [(it.number, to_key(it)) for it in former]
        if len(former) <= page.size:
            keys.append((0, to_present_key(found, since)))
        shown, token = self._pages.cut(request, page, keys, lambda it: str(it[0]), now)
        return pb.ListRegistrationKeysResponse(registration_keys=[key for _, key in shown], next_page_token=token)

    async def GetOverrideCodes(self, request: pb.GetOverrideCodesRequest, call: Call) -> pb.GetOverrideCodesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        shown = await self.registry.override_codes.get(call, request.organization_id, request.registration_id)
        return pb.GetOverrideCodesResponse(
            override_codes=[
                pb.OverrideCode(hours=it.hours, code=it.code, expire_time=to_timestamp(it.expire_time))
                for it in shown.codes
            ],
            switch_locked=shown.switch_locked,
        )

    async def CheckOverrideCode(self, request: pb.CheckOverrideCodeRequest, call: Call) -> pb.CheckOverrideCodeResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        if not request.code:
            raise FieldRequired("code")
        if not re.fullmatch(rf"[0-9]{{{OVERRIDE_DIGITS}}}", request.code):
            raise InvalidField("code", f"an override code has {OVERRIDE_DIGITS} digits")
        found, switch_locked = await self.registry.override_codes.check(
            call, request.organization_id, request.registration_id, request.code
        )
        return pb.CheckOverrideCodeResponse(
            hours=found.hours, expire_time=to_timestamp(found.expire_time), switch_locked=switch_locked
        )

    async def Heartbeat(self, request: pb.HeartbeatRequest, call: Call) -> pb.HeartbeatResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        for field in ("os_version", "client_version"):
            checks.text(getattr(request, field), field, TEXT_LIMIT, required=False)
        checks.text(request.network, "network", reading.NETWORK, required=False)
        said = request.HasField("posture")
        if said:
            _check_posture(request.posture)
        self.registry.heartbeats.take(
            request.organization_id,
            request.registration_id,
            request.os_version,
            request.client_version,
            from_posture(request.posture) if said else None,
            request.network if request.HasField("network") else None,
        )
        caller = call.caller
        if not isinstance(caller, DeviceCaller):
            return pb.HeartbeatResponse()
        return pb.HeartbeatResponse(
            device_profile_id=caller.device_profile_id, configuration_etag=caller.configuration_etag
        )

    async def Leave(self, request: pb.LeaveRequest, call: Call) -> pb.LeaveResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        checks.request_id(request.request_id, required=True)
        token = await self.registry.registrations.leave(call, request.organization_id, request.registration_id)
        return pb.LeaveResponse(revision_token=token)

    # HeldActionService

    async def ListHeldActions(self, request: pb.ListHeldActionsRequest, _call: Call) -> pb.ListHeldActionsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.registry.held_actions.page(request.organization_id, page)
        held = [to_held_action(it) for it in found]
        shown, token = self._pages.cut(request, page, held, lambda it: it.held_action_id, now, pb.HeldAction.ByteSize)
        return pb.ListHeldActionsResponse(held_actions=shown, next_page_token=token)

    async def ApproveHeldAction(self, request: pb.ApproveHeldActionRequest, call: Call) -> pb.ApproveHeldActionResponse:
        held, token = await self._decide(request, call, HeldState.APPROVED)
        return pb.ApproveHeldActionResponse(held_action=to_held_action(held), revision_token=token)

    async def RejectHeldAction(self, request: pb.RejectHeldActionRequest, call: Call) -> pb.RejectHeldActionResponse:
        held, token = await self._decide(request, call, HeldState.REJECTED)
        return pb.RejectHeldActionResponse(held_action=to_held_action(held), revision_token=token)

    async def _decide(
        self, request: pb.ApproveHeldActionRequest | pb.RejectHeldActionRequest, call: Call, decision: HeldState
    ) -> tuple[HeldAction, str]:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        held_action_id = check_id(request.held_action_id, HELD_ACTION, "held_action_id")
        return await self.registry.held_actions.decide(
            call, organization_id, held_action_id, decision, validate_only=request.validate_only
        )

    # DeviceService

    async def GetDevice(self, request: pb.GetDeviceRequest, _call: Call) -> pb.GetDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        found = await self.registry.devices.get(request.organization_id, request.device_id)
        return pb.GetDeviceResponse(device=to_device(found))

    async def ListDevices(self, request: pb.ListDevicesRequest, _call: Call) -> pb.ListDevicesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if request.active_registrations:
            checks.choice(request.active_registrations, list(_ACTIVE), "active_registrations")
        if request.platform:
            checks.choice(request.platform, pb.Platform.values(), "platform")
        now = self._clock.now()
        page = self._pages.read(request, now)
        checks.count(request.tags, "tags", MAX_TAGS, least=0)
        if request.last_seen_user_id:
            check_id(request.last_seen_user_id, USER, "last_seen_user_id")
        if request.device_profile_id:
            check_id(request.device_profile_id, DEVICE_PROFILE, "device_profile_id")
        wanted = DeviceFilter(
            _ACTIVE[request.active_registrations],
            request.platform,
            checks.ids(request.device_ids, "device_ids", DEVICE),
            _search(request),
            [_tag(tag, f"tags[{at}]") for at, tag in enumerate(request.tags)],
            request.last_seen_user_id,
            checks.text(request.last_seen_user_email, "last_seen_user_email", checks.EMAIL, required=False),
            request.device_profile_id,
        )
        asked = _range(request, page, _DEVICE_ORDERS)
        found = await self.registry.devices.page(request.organization_id, wanted, asked)
        shown, token = self._pages.cut(
            request, page, found.rows, lambda row: _cursor(row.place), now, end=_cursor(found.end)
        )
        return pb.ListDevicesResponse(devices=map(to_device, shown), next_page_token=token)

    async def UpdateDevice(self, request: pb.UpdateDeviceRequest, call: Call) -> pb.UpdateDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        device_id = check_id(request.device.device_id, DEVICE, "device.device_id")
        checks.mask(request.update_mask, ["tags"])
        tags = _tags(request.device.tags)
        changed, token = await self.registry.devices.update(
            call, request.organization_id, device_id, tags, request.device.etag, validate_only=request.validate_only
        )
        return pb.UpdateDeviceResponse(device=to_device(changed), revision_token=token)

    async def RevokeDevice(self, request: pb.RevokeDeviceRequest, call: Call) -> pb.RevokeDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        done = await self.registry.devices.revoke(
            call, request.organization_id, request.device_id, validate_only=request.validate_only
        )
        return pb.RevokeDeviceResponse(
            registrations_revoked=done.revoked,
            addresses_held=FAMILIES * done.held,
            revision_token=done.revision_token,
            users=done.users,
        )

    async def DeleteDevice(self, request: pb.DeleteDeviceRequest, call: Call) -> pb.DeleteDeviceResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        done = await self.registry.devices.delete(
            call, request.organization_id, request.device_id, validate_only=request.validate_only
        )
        return pb.DeleteDeviceResponse(
            registrations_deleted=done.deleted,
            revision_token=done.revision_token,
            addresses_released=FAMILIES * done.deleted,
            users=done.users,
        )

    async def ReportOsSession(self, request: pb.ReportOsSessionRequest, call: Call) -> pb.ReportOsSessionResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.registration_id, REGISTRATION, "registration_id")
        event = OsEvent(checks.choice(request.event, list(OsEvent), "event"))
        checks.text(request.os_user, "os_user", TEXT_LIMIT, required=event is not OsEvent.LOCK)
        if not request.sequence:
            raise FieldRequired("sequence", "sequence is required: a number that grows with each event of the device")
        if request.sequence < 1:
            raise InvalidField("sequence", "sequence is at least 1, and greater than that of the event before")
        said = Report(
            request.organization_id,
            request.registration_id,
            event,
            request.os_user,
            request.sequence,
        )
        session, token = await self.registry.os_sessions.report(call, said)
        return pb.ReportOsSessionResponse(
            current_registration_id=session.registration_id,
            asks_to_register=session.asks_to_register,
            sequence=session.sequence,
            revision_token=token,
        )

    async def ListOsSessions(self, request: pb.ListOsSessionsRequest, _call: Call) -> pb.ListOsSessionsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_id, DEVICE, "device_id")
        time = checks.timestamp(request.time, "time") if request.HasField("time") else None
        now = self._clock.now()
        page = self._pages.read(request, now)
        before = int(page.after) if page.after else None
        rows = await self.registry.os_sessions.page(
            request.organization_id, request.device_id, time, before, page.size + 1
        )
        shown, token = self._pages.cut(request, page, rows, lambda row: str(row.begin_time), now)
        return pb.ListOsSessionsResponse(os_sessions=map(to_os_session, shown), next_page_token=token)

    # DeviceProfileService

    async def CreateDeviceProfile(
        self, request: pb.CreateDeviceProfileRequest, call: Call
    ) -> pb.CreateDeviceProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("device_profile"):
            raise FieldRequired("device_profile")
        reading.custom(request.device_profile, Settings())
        made, token = await self.registry.device_profiles.create(
            call,
            request.organization_id,
            lambda base: reading.custom(request.device_profile, base),
            validate_only=request.validate_only,
        )
        return pb.CreateDeviceProfileResponse(
            device_profile=to_device_profile(made), revision_token=token, warnings=reading.warnings(made.match)
        )

    async def GetDeviceProfile(self, request: pb.GetDeviceProfileRequest, _call: Call) -> pb.GetDeviceProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_profile_id, DEVICE_PROFILE, "device_profile_id")
        found = await self.registry.device_profiles.get(request.organization_id, request.device_profile_id)
        return pb.GetDeviceProfileResponse(device_profile=to_device_profile(found))

    async def ListDeviceProfiles(
        self, request: pb.ListDeviceProfilesRequest, _call: Call
    ) -> pb.ListDeviceProfilesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found, matching = await self.registry.device_profiles.page(request.organization_id, page)
        messages = [to_device_profile(it) for it in found]
        shown, token = self._pages.cut(
            request, page, messages, lambda it: str(it.precedence), now, pb.DeviceProfile.ByteSize
        )
        return pb.ListDeviceProfilesResponse(
            device_profiles=shown, next_page_token=token, matching=to_matching(matching)
        )

    async def UpdateDeviceProfile(
        self, request: pb.UpdateDeviceProfileRequest, call: Call
    ) -> pb.UpdateDeviceProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.device_profile
        check_id(sent.device_profile_id, DEVICE_PROFILE, "device_profile.device_profile_id")
        mask = checks.mask(request.update_mask, reading.PATHS)
        # A mask may name a setting that is not sent: what is not there at all would not be merged.
        sent.settings.SetInParent()

        def change(found: DeviceProfile) -> DeviceProfile:
            changed = to_device_profile(found)
            request.update_mask.MergeMessage(sent, changed, replace_message_field=True, replace_repeated_field=True)
            return reading.default(changed, found, mask) if found.is_default else reading.custom(changed, Settings())

        made, token = await self.registry.device_profiles.update(
            call,
            request.organization_id,
            sent.device_profile_id,
            sent.etag,
            change,
            validate_only=request.validate_only,
        )
        return pb.UpdateDeviceProfileResponse(
            device_profile=to_device_profile(made), revision_token=token, warnings=reading.warnings(made.match)
        )

    async def DeleteDeviceProfile(
        self, request: pb.DeleteDeviceProfileRequest, call: Call
    ) -> pb.DeleteDeviceProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.device_profile_id, DEVICE_PROFILE, "device_profile_id")
        gone, token = await self.registry.device_profiles.delete(
            call,
            request.organization_id,
            request.device_profile_id,
            request.etag,
            validate_only=request.validate_only,
        )
        return pb.DeleteDeviceProfileResponse(device_profile=to_device_profile(gone), revision_token=token)

    async def MatchDeviceProfile(
        self, request: pb.MatchDeviceProfileRequest, _call: Call
    ) -> pb.MatchDeviceProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        match request.WhichOneof("subject"):
            case "registration_id":
                about: str | Subject = check_id(request.registration_id, REGISTRATION, "registration_id")
            case "test_subject":
                about = reading.subject(request.test_subject, "test_subject")
            case _:
                raise FieldRequired("registration_id", "a registration_id or a test_subject is required")
        tried = await self.registry.device_profiles.match(request.organization_id, about)
        decided = next((step.rule.device_profile_id for step in tried.steps if step.decides), "")
        default = tried.default
        last = pb.ProfileStep(
            device_profile_id=default.device_profile_id,
            name=default.name,
            enabled=True,
            matched=True,
            decides=not decided,
        )
        steps = [to_step(step, tried.names[step.rule.device_profile_id]) for step in tried.steps]
        return pb.MatchDeviceProfileResponse(
            device_profile_id=decided or default.device_profile_id,
            name=tried.names[decided] if decided else default.name,
            steps=[*steps, last],
        )

    async def _configuration(self, of: Registration) -> pb.DeviceConfiguration:
        found = await self.registry.device_profiles.in_force(of.organization_id, of.device_profile_id)
        return to_configuration(found)

    # AuditService

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, call: Call) -> pb.ListAuditRecordsResponse:
        answer: pb.ListAuditRecordsResponse = await self._audit.list_records(request)
        return answer

    async def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, call: Call
    ) -> pb.GetAuditCheckpointResponse:
        answer: pb.GetAuditCheckpointResponse = await self._audit.get_checkpoint(request)
        return answer

    # GatewayService

    async def ListGateways(self, request: pb.ListGatewaysRequest, _call: Call) -> pb.ListGatewaysResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        found, head = await self.registry.gateways.page(request.organization_id)
        now = self._clock.now()
        return pb.ListGatewaysResponse(gateways=[to_gateway(it, head, now) for it in found], head=to_position(head))

    async def ReportHandshakes(self, request: pb.ReportHandshakesRequest, _call: Call) -> pb.ReportHandshakesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.count(request.handshakes, "handshakes", checks.MAX_BATCH)
        times: dict[str, int] = {}
        for place, it in enumerate(request.handshakes):
            field = f"handshakes[{place}]"
            registration_id = check_id(it.registration_id, REGISTRATION, f"{field}.registration_id")
            if not it.HasField("time"):
                raise FieldRequired(f"{field}.time")
            times[registration_id] = max(checks.timestamp(it.time, f"{field}.time"), times.get(registration_id, 0))
        await self.registry.gateways.report(request.organization_id, times)
        return pb.ReportHandshakesResponse()

    # RegistryFeedService

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], stream: Stream) -> None:
        await self._feed.serve(requests, stream)


def _keeps(text: str) -> int:
    keeps = parse_duration(text, "delete_revoked_after")
    if keeps < HOUR:
        raise DurationInvalid("delete_revoked_after", "revoked registrations are deleted after 1h or more")
    return keeps


def _ids(organization_id: str, ids: Sequence[str]) -> list[str]:
    """The ids of a batch, each once."""
    check_id(organization_id, ORGANIZATION, "organization_id")
    return checks.ids(ids, "registration_ids", REGISTRATION, least=1)


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
    for field in Claims.__slots__:
        if field not in ("hardware_id", "platform"):
            checks.text(getattr(claims, field), f"device.{field}", TEXT_LIMIT, required=False)
    if claims.platform:
        checks.choice(claims.platform, pb.Platform.values(), "device.platform")


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    field = "device.tags"
    if len(tags) > MAX_TAGS:
        raise InvalidField(field, f"a device has at most {MAX_TAGS} tags; these are {len(tags)}")
    for key, value in tags.items():
        if not TAG_KEY.fullmatch(key):
            raise InvalidField(field, f"{key[:64]!r} is no key of a tag: 1 to 64 letters, digits and ._/-")
        checks.text(value, field, TAG_LIMIT, required=False)
    return dict(tags)


def _check_multi_user(request: pb.RegisterRequest) -> None:
    of = request.multi_user
    if of.pre_login and of.os_user:
        raise InvalidField("multi_user.os_user", "at the login screen there is no account: leave os_user out")
    if of.pre_login and request.credential.WhichOneof("kind") != "service_token":
        raise InvalidField("multi_user.pre_login", "at the login screen a device enrolls with a service token")
    checks.text(of.os_user, "multi_user.os_user", TEXT_LIMIT, required=not of.pre_login)


def _check_posture(posture: pb.DevicePosture) -> None:
    for name, ids in (("passed", posture.passed), ("failed", posture.failed)):
        checks.count(ids, f"posture.{name}", MAX_CHECKS, least=0)
        for at, each in enumerate(ids):
            checks.text(each, f"posture.{name}[{at}]", CHECK_LIMIT)
    passed = set(posture.passed)
    for at, each in enumerate(posture.failed):
        if each in passed:
            raise InvalidField(f"posture.failed[{at}]", f"{each!r} is among those that passed, too")


def _check_key(request: pb.RegisterRequest | pb.RotateKeyRequest) -> None:
    checks.choice(request.key_type, list(KEY_TYPES), "key_type")
    for field in ("public_key", "challenge", "proof"):
        if not getattr(request, field):
            raise FieldRequired(field)


def _range(request: _ListRequest, page: Page, orders: Mapping[str, Order]) -> Range:
    """One row more than the page shows. Raises InvalidField and PageTokenInvalid."""
    by = request.order_by.removesuffix(" desc")
    if by and by not in orders:
        raise InvalidField("order_by", f'order_by is one of {", ".join(orders)}, with " desc" behind it or without')
    order = orders[by] if by else Order.CREATE
    seen_after, seen_before = (
        checks.timestamp(getattr(request, field), field) if request.HasField(field) else None
        for field in ("seen_after", "seen_before")
    )
    if seen_after is not None and seen_before is not None and seen_before <= seen_after:
        raise InvalidField("seen_before", "seen_before must be later than seen_after")
    descending = request.order_by.endswith(" desc")
    return Range(page.size + 1, order, descending, _after(page, order), seen_after, seen_before)


def _search(request: _ListRequest) -> str:
    return checks.text(request.search, "search", SEARCH_LIMIT, required=False)


def _tag(tag: str, field: str) -> tuple[str, str]:
    key, colon, value = tag.partition(":")
    if not colon or not TAG_KEY.fullmatch(key):
        raise InvalidField(field, f'{tag[:64]!r} is no tag, such as "site:Ulm"')
    return key, checks.text(value, field, TAG_LIMIT, required=False)


def _cursor(place: Cursor | None) -> str:
    return f"{place.row_id}:{place.value}" if place is not None else ""


def _after(page: Page, order: Order) -> Cursor | None:
    """Raises PageTokenInvalid for a token of the release that went by the id alone."""
    if not page.after:
        return None
    row_id, colon, value = page.after.partition(":")
    if not colon:
        raise PageTokenInvalid("page_token", "the page token is of another release; start over")
    return Cursor(int(value) if order in (Order.CREATE, Order.SEEN, Order.ACTIVE) else value, row_id)
