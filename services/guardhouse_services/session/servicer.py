"""The contract's methods: syntax on the way in, messages on the way out."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from guardhouse.applications import Application, DeviceSessionSettings
from guardhouse.clock import Clock
from guardhouse.decisions import MAX_VALID_FOR
from guardhouse.durations import SECOND
from guardhouse.errors import DeadlineTooShort, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ids import APPLICATION, LIST, ORGANIZATION, POLICY, REGISTRATION, USER, check_id
from guardhouse.policies import ListType
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.calls import Send, Stream
from guardhouse_services.feed import Feed
from guardhouse_services.paging import Pages
from guardhouse_services.session import application_answers, application_reading, checking, messages, reading, traffic
from guardhouse_services.session.domain.lists import ValueList
from guardhouse_services.session.domain.policies import (
    Policy,
    Terms,
)
from guardhouse_services.session.usecases import Session

MAX_CHECKS = 1000
# No answer holds for longer.
SEND_SECONDS = MAX_VALID_FOR / SECOND
MAX_ORDERED = 500
MAX_TRIALS = 100
POLICY_PATHS = (
    *("display_name", "description", "enabled", "filter", "action", "check_session", "staleness"),
    *("precedence", "traffic", "identity", "device_posture", "schedule", "expire_time"),
)
LIST_PATHS = ("name", "description", "values")


class SessionServicer:
    """Every method of guardhouse.session.v1."""

    def __init__(self, clock: Clock, session: Session, pages: Pages, feed: Feed, audit: Audit) -> None:
        self.session = session
        self._clock = clock
        self._pages = pages
        self._feed = feed
        self._audit = audit

    async def CreatePolicy(self, request: pb.CreatePolicyRequest, call: Call) -> pb.CreatePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("policy"):
            raise FieldRequired("policy")
        terms = reading.terms(request.policy, "policy")
        policy, warnings, token = await self.session.policies.create(call, organization_id, terms)
        return pb.CreatePolicyResponse(
            policy=messages.policy(policy), revision_token=token, warnings=map(messages.warning, warnings)
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, call: Call) -> pb.GetPolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        return pb.GetPolicyResponse(policy=messages.policy(await self.session.policies.get(organization_id, policy_id)))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, call: Call) -> pb.ListPoliciesResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.session.policies.page(organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda policy: policy.policy_id, now)
        return pb.ListPoliciesResponse(policies=map(messages.policy, shown), next_page_token=token)

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, call: Call) -> pb.UpdatePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy.policy_id, POLICY, "policy.policy_id")
        checks.mask(request.update_mask, POLICY_PATHS)

        def change(policy: Policy) -> Terms:
            changed = messages.policy(policy)
            request.update_mask.MergeMessage(request.policy, changed, replace_message_field=True)
            return reading.terms(changed, "policy")

        policy, warnings, token = await self.session.policies.update(
            call, organization_id, policy_id, request.policy.etag, change
        )
        return pb.UpdatePolicyResponse(
            policy=messages.policy(policy), revision_token=token, warnings=map(messages.warning, warnings)
        )

    async def DeletePolicy(self, request: pb.DeletePolicyRequest, call: Call) -> pb.DeletePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        policy, token = await self.session.policies.delete(
            call, organization_id, policy_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeletePolicyResponse(policy=messages.policy(policy) if policy else None, revision_token=token)

    async def ReorderPolicies(self, request: pb.ReorderPoliciesRequest, call: Call) -> pb.ReorderPoliciesResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.count(request.policy_ids, "policy_ids", MAX_ORDERED, least=2)
        policy_ids = reading.policy_ids(request.policy_ids, "policy_ids")
        policies, token = await self.session.policies.reorder(call, organization_id, policy_ids)
        return pb.ReorderPoliciesResponse(policies=map(messages.policy, policies), revision_token=token)

    async def TestPolicies(self, request: pb.TestPoliciesRequest, call: Call) -> pb.TestPoliciesResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.count(request.tests, "tests", MAX_TRIALS)
        time = checks.timestamp(request.time, "time") if request.HasField("time") else None
        trials = [reading.trial(test, f"tests[{place}]") for place, test in enumerate(request.tests)]
        proposal = reading.proposal(request, self.session.policies.check, self.session.replica.max_open)
        outcomes, fresh_as_of = await self.session.trials.run(organization_id, trials, time, proposal)
        names = {**self.session.replica.policy_state(organization_id).names, **proposal.names}
        return pb.TestPoliciesResponse(
            results=[messages.outcome(outcome, names) for outcome in outcomes], fresh_as_of=to_timestamp(fresh_as_of)
        )

    async def CreateList(self, request: pb.CreateListRequest, call: Call) -> pb.CreateListResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("list"):
            raise FieldRequired("list")
        sent = request.list
        name = reading.list_name(sent.name)
        description = checks.text(sent.description, "list.description", 500, required=False)
        type_ = ListType(checks.choice(sent.type, list(ListType), "list.type"))
        values = reading.list_values(sent.values, type_)

        def draft(list_id: str, now: int) -> ValueList:
            return ValueList(list_id, name, description, type_, values, len(values), now, now)

        made, token = await self.session.lists.create(call, organization_id, draft)
        return pb.CreateListResponse(list=messages.value_list(made), revision_token=token)

    async def GetList(self, request: pb.GetListRequest, call: Call) -> pb.GetListResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        list_id = check_id(request.list_id, LIST, "list_id")
        return pb.GetListResponse(list=messages.value_list(await self.session.lists.get(organization_id, list_id)))

    async def ListLists(self, request: pb.ListListsRequest, call: Call) -> pb.ListListsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.session.lists.page(organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.list_id, now)
        return pb.ListListsResponse(lists=map(messages.value_list, shown), next_page_token=token)

    async def UpdateList(self, request: pb.UpdateListRequest, call: Call) -> pb.UpdateListResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.list
        list_id = check_id(sent.list_id, LIST, "list.list_id")
        mask = checks.mask(request.update_mask, LIST_PATHS)
        changes: dict[str, Any] = {}
        if "name" in mask:
            changes["name"] = reading.list_name(sent.name)
        if "description" in mask:
            changes["description"] = checks.text(sent.description, "list.description", 500, required=False)

        def change(found: ValueList, now: int) -> ValueList:
            changed = replace(found, **changes, update_time=now)
            if "values" not in mask:
                return changed
            values = reading.list_values(sent.values, found.type)
            return replace(changed, values=values, value_count=len(values))

        made, token = await self.session.lists.update(call, organization_id, list_id, sent.etag, change)
        return pb.UpdateListResponse(list=messages.value_list(made), revision_token=token)

    async def DeleteList(self, request: pb.DeleteListRequest, call: Call) -> pb.DeleteListResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        list_id = check_id(request.list_id, LIST, "list_id")
        gone, token = await self.session.lists.delete(
            call, organization_id, list_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteListResponse(list=messages.value_list(gone), revision_token=token)

    async def CreateApplication(self, request: pb.CreateApplicationRequest, call: Call) -> pb.CreateApplicationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("application"):
            raise FieldRequired("application")
        sent = request.application
        paths = [path for path in application_reading.PATHS if path != "session_duration" or sent.session_duration]
        fields = application_reading.fields(sent, paths)

        def draft(application_id: str, now: int) -> Application:
            return Application(application_id, **fields, create_time=now, update_time=now)

        made, token = await self.session.applications.create(call, organization_id, draft)
        return pb.CreateApplicationResponse(application=messages.application(*made), revision_token=token)

    async def GetApplication(self, request: pb.GetApplicationRequest, call: Call) -> pb.GetApplicationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        application_id = check_id(request.application_id, APPLICATION, "application_id")
        found = await self.session.applications.get(organization_id, application_id)
        return pb.GetApplicationResponse(application=messages.application(*found))

    async def ListApplications(self, request: pb.ListApplicationsRequest, call: Call) -> pb.ListApplicationsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = [messages.application(*it) for it in await self.session.applications.page(organization_id, page)]
        shown, token = self._pages.cut(
            request, page, found, lambda it: it.application_id, now, size_of=lambda it: it.ByteSize()
        )
        return pb.ListApplicationsResponse(applications=shown, next_page_token=token)

    async def UpdateApplication(self, request: pb.UpdateApplicationRequest, call: Call) -> pb.UpdateApplicationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.application
        application_id = check_id(sent.application_id, APPLICATION, "application.application_id")
        mask = checks.mask(request.update_mask, application_reading.PATHS)
        fields = application_reading.fields(sent, mask)

        def change(found: Application, now: int) -> Application:
            return replace(found, **fields, update_time=now)

        made, token = await self.session.applications.update(call, organization_id, application_id, sent.etag, change)
        return pb.UpdateApplicationResponse(application=messages.application(*made), revision_token=token)

    async def DeleteApplication(self, request: pb.DeleteApplicationRequest, call: Call) -> pb.DeleteApplicationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        application_id = check_id(request.application_id, APPLICATION, "application_id")
        gone, token = await self.session.applications.delete(
            call, organization_id, application_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteApplicationResponse(application=messages.application(*gone), revision_token=token)

    async def GetDeviceSessionSettings(
        self, request: pb.GetDeviceSessionSettingsRequest, call: Call
    ) -> pb.GetDeviceSessionSettingsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        found = await self.session.device_sessions.get(organization_id)
        return pb.GetDeviceSessionSettingsResponse(settings=messages.device_session_settings(found))

    async def UpdateDeviceSessionSettings(
        self, request: pb.UpdateDeviceSessionSettingsRequest, call: Call
    ) -> pb.UpdateDeviceSessionSettingsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.settings
        mask = checks.mask(request.update_mask, application_reading.SETTINGS_PATHS)
        fields = application_reading.settings_fields(sent, mask)

        def change(found: DeviceSessionSettings, now: int) -> DeviceSessionSettings:
            return replace(found, **fields, update_time=now)

        made, token = await self.session.device_sessions.update(call, organization_id, sent.etag, change)
        return pb.UpdateDeviceSessionSettingsResponse(
            settings=messages.device_session_settings(made), revision_token=token
        )

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, call: Call) -> pb.ListSigningKeysResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        found = await self.session.signing_keys.published(organization_id)
        return pb.ListSigningKeysResponse(signing_keys=map(messages.signing_key, found))

    async def RotateSigningKey(self, request: pb.RotateSigningKeyRequest, call: Call) -> pb.RotateSigningKeyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        made, token = await self.session.signing_keys.rotate(
            call, organization_id, revoke_previous=request.revoke_previous
        )
        return pb.RotateSigningKeyResponse(signing_key=messages.signing_key(made), revision_token=token)

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        found = await self.session.sessions.get(organization_id, registration_id)
        names = self.session.replica.policy_state(organization_id).names
        return pb.GetSessionResponse(session=messages.session(found, names))

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        user_id = check_id(request.user_id, USER, "user_id") if request.user_id else ""
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.session.sessions.page(organization_id, page, user_id, request.only_expired)
        shown, token = self._pages.cut(request, page, found, lambda registration_id: registration_id, now)
        names = self.session.replica.policy_state(organization_id).names
        sessions = [messages.session(it, names) for it in self.session.sessions.show(organization_id, shown)]
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def RevokeSessions(self, request: pb.RevokeSessionsRequest, call: Call) -> pb.RevokeSessionsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.request_id(request.request_id, required=True)
        ids = checks.ids(request.registration_ids, "registration_ids", REGISTRATION, least=1)
        revoked, token = await self.session.sessions.revoke(
            call, organization_id, ids, validate_only=request.validate_only
        )
        names = self.session.replica.policy_state(organization_id).names
        results = [messages.session_result(*outcome, names) for outcome in zip(ids, revoked, strict=True)]
        return pb.RevokeSessionsResponse(results=results, revision_token=token)

    async def StartReauthentication(
        self, request: pb.StartReauthenticationRequest, call: Call
    ) -> pb.StartReauthenticationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        provider, challenge, expire_time = await self.session.sessions.start(organization_id, registration_id)
        return pb.StartReauthenticationResponse(
            sign_in=messages.sign_in(provider) if provider is not None else None,
            challenge=challenge,
            expire_time=to_timestamp(expire_time),
        )

    async def Reauthenticate(self, request: pb.ReauthenticateRequest, call: Call) -> pb.ReauthenticateResponse:
        recorded = await self._reauthenticate(request, call)
        return pb.ReauthenticateResponse(
            authenticate_time=recorded.authenticate_time, revision_token=recorded.revision_token
        )

    async def RefreshIdentity(self, request: pb.RefreshIdentityRequest, call: Call) -> pb.RefreshIdentityResponse:
        recorded = await self._reauthenticate(request, call, "refresh ")
        return pb.RefreshIdentityResponse(
            authenticate_time=recorded.authenticate_time,
            revision_token=recorded.revision_token,
            email=recorded.user.email,
            display_name=recorded.user.display_name,
            groups=recorded.user.groups,
        )

    async def _reauthenticate(
        self, request: pb.ReauthenticateRequest | pb.RefreshIdentityRequest, call: Call, purpose: str = ""
    ) -> identity.RecordAuthenticationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        checks.request_id(request.request_id, required=True)
        if request.credential.WhichOneof("kind") is None:
            raise FieldRequired("credential")
        return await self.session.sessions.reauthenticate(
            call, organization_id, registration_id, request.credential, request.challenge, purpose
        )

    async def CheckSession(self, request: pb.CheckSessionRequest, call: Call) -> checking.Reply:
        replica, response = self.session.replica, pb.CheckSessionResponse()
        return checking.answer(replica, request.organization_id, (request,), response, checking.alone, checking.ALL)

    async def BatchCheckSessions(self, request: pb.BatchCheckSessionsRequest, call: Call) -> checking.Reply:
        return self._check(request, pb.BatchCheckSessionsResponse(), checking.in_a_batch)

    async def StreamCheckSessions(self, requests: AsyncIterator[pb.StreamCheckSessionsRequest], send: Send) -> None:
        # The next request is taken when the answer to this one is on its way: who does not read is not read from.
        async for request in requests:
            reply = self._check(request, pb.StreamCheckSessionsResponse(nonce=request.nonce), checking.in_a_stream)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(reply.SerializeToString())
            except TimeoutError:
                raise DeadlineTooShort(
                    f"an answer was not taken in {SEND_SECONDS:.0f} s, and holds no longer"
                ) from None

    async def CheckTraffic(self, request: pb.CheckTrafficRequest, call: Call) -> checking.Reply:
        replica, response = self.session.replica, pb.CheckTrafficResponse()
        return traffic.answer(replica, request.organization_id, (request,), response, traffic.alone, checking.ALL)

    async def LogIn(self, request: pb.LogInRequest, call: Call) -> pb.LogInResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        application_id = check_id(request.application_id, APPLICATION, "application_id")
        registration_id = request.registration_id
        if registration_id:
            check_id(registration_id, REGISTRATION, "registration_id")
        elif request.challenge:
            raise InvalidField("challenge", "a challenge is a registration's; send its registration_id as well")
        client = application_answers.client(request.client)
        checks.request_id(request.request_id, required=True)
        if request.credential.WhichOneof("kind") is None:
            raise FieldRequired("credential")
        logged_in = await self.session.logins.log_in(
            call, organization_id, application_id, registration_id, request.credential, request.challenge, client
        )
        return application_answers.logged_in(logged_in)

    async def CheckApplication(self, request: pb.CheckApplicationRequest, call: Call) -> pb.CheckApplicationResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        application_id = check_id(request.application_id, APPLICATION, "application_id")
        registration_id = None
        match request.WhichOneof("device"):
            case "registration_id":
                registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
            case "address":
                address = checks.address(request.address, "address")
                registration_id = self.session.logins.holder(organization_id, address)
        checked = await self.session.logins.check(
            organization_id,
            application_id,
            registration_id,
            request.session_token,
            request.binding,
            application_answers.client(request.client),
        )
        return application_answers.checked(checked)

    async def BatchCheckTraffic(self, request: pb.BatchCheckTrafficRequest, call: Call) -> checking.Reply:
        checks.count(request.items, "items", MAX_CHECKS)
        wants = checking.wants(request.read_mask) if request.read_mask.paths else traffic.IN_A_BATCH
        replica, response = self.session.replica, pb.BatchCheckTrafficResponse()
        return traffic.answer(
            replica, request.organization_id, request.items, response, traffic.in_a_batch, wants, "items[{}]."
        )

    def _check(
        self,
        request: pb.BatchCheckSessionsRequest | pb.StreamCheckSessionsRequest,
        response: pb.BatchCheckSessionsResponse | pb.StreamCheckSessionsResponse,
        new: checking.New,
    ) -> checking.Reply:
        checks.count(request.items, "items", MAX_CHECKS)
        wants, replica = checking.wants(request.read_mask), self.session.replica
        return checking.answer(replica, request.organization_id, request.items, response, new, wants, "items[{}].")

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, call: Call) -> pb.ListAuditRecordsResponse:
        answer: pb.ListAuditRecordsResponse = await self._audit.list_records(request)
        return answer

    async def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, call: Call
    ) -> pb.GetAuditCheckpointResponse:
        answer: pb.GetAuditCheckpointResponse = await self._audit.get_checkpoint(request)
        return answer

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], stream: Stream) -> None:
        await self._feed.serve(requests, stream)
