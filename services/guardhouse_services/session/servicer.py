"""The contract's methods: syntax on the way in, messages on the way out."""

import asyncio
from collections.abc import AsyncIterator

from guardhouse.decisions import MAX_VALID_FOR, PolicyAction, PolicyFilter
from guardhouse.durations import parse_duration, parse_session_timeout
from guardhouse.errors import DeadlineTooShort, FieldRequired, InvalidField
from guardhouse.ids import ORGANIZATION, POLICY, REGISTRATION, check_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.clock import SECOND, Clock
from guardhouse_services.feed import Feed, Send
from guardhouse_services.paging import Pages
from guardhouse_services.session import checking, messages
from guardhouse_services.session.domain import CheckSession, Policy, Staleness, StalenessMode, Terms
from guardhouse_services.session.usecases import Session
from guardhouse_services.times import to_timestamp

MAX_CHECKS = 1000
# No answer holds for longer.
SEND_SECONDS = MAX_VALID_FOR / SECOND
PATHS = ("display_name", "description", "enabled", "filter", "action", "check_session", "staleness")


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
        policy, token = await self.session.create_policy(call, organization_id, _terms(request.policy))
        return pb.CreatePolicyResponse(policy=messages.policy(policy), revision_token=token)

    async def GetPolicy(self, request: pb.GetPolicyRequest, call: Call) -> pb.GetPolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        return pb.GetPolicyResponse(policy=messages.policy(await self.session.get_policy(organization_id, policy_id)))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, call: Call) -> pb.ListPoliciesResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.session.list_policies(organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda policy: policy.policy_id, now)
        return pb.ListPoliciesResponse(policies=map(messages.policy, shown), next_page_token=token)

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, call: Call) -> pb.UpdatePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy.policy_id, POLICY, "policy.policy_id")
        checks.mask(request.update_mask, PATHS)

        def change(policy: Policy) -> Terms:
            changed = messages.policy(policy)
            request.update_mask.MergeMessage(request.policy, changed, replace_message_field=True)
            return _terms(changed)

        etag = request.policy.etag
        policy, token = await self.session.update_policy(call, organization_id, policy_id, etag, change)
        return pb.UpdatePolicyResponse(policy=messages.policy(policy), revision_token=token)

    async def DeletePolicy(self, request: pb.DeletePolicyRequest, call: Call) -> pb.DeletePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        policy, token = await self.session.delete_policy(
            call, organization_id, policy_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeletePolicyResponse(policy=messages.policy(policy) if policy else None, revision_token=token)

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        registration, revoked = await self.session.get_session(organization_id, registration_id)
        return pb.GetSessionResponse(session=messages.session(registration, revoked))

    async def Reauthenticate(self, request: pb.ReauthenticateRequest, call: Call) -> pb.ReauthenticateResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        checks.request_id(request.request_id, required=True)
        if request.credential.WhichOneof("kind") is None:
            raise FieldRequired("credential")
        time, token = await self.session.reauthenticate(call, organization_id, registration_id, request.credential)
        return pb.ReauthenticateResponse(authenticate_time=to_timestamp(time), revision_token=token)

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

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], send: Send) -> None:
        await self._feed.watch(requests, send)


def _terms(policy: pb.Policy) -> Terms:
    """Raises InvalidField."""
    return Terms(
        display_name=checks.text(policy.display_name, "policy.display_name", 100),
        description=checks.text(policy.description, "policy.description", 500, required=False),
        enabled=policy.enabled,
        filter=PolicyFilter(checks.choice(policy.filter, list(PolicyFilter), "policy.filter")),
        action=PolicyAction(checks.choice(policy.action, list(PolicyAction), "policy.action")),
        check_session=_check_session(policy),
        staleness=_staleness(policy),
    )


def _check_session(policy: pb.Policy) -> CheckSession | None:
    if not policy.HasField("check_session"):
        return None
    check = policy.check_session
    if not check.enforce and not check.duration:
        return CheckSession(enforce=False, duration=None)
    return CheckSession(check.enforce, parse_session_timeout(check.duration, "policy.check_session.duration"))


def _staleness(policy: pb.Policy) -> Staleness | None:
    if not policy.HasField("staleness"):
        return None
    sent, field = policy.staleness, "policy.staleness.max_open"
    mode = StalenessMode(checks.choice(sent.mode, list(StalenessMode), "policy.staleness.mode"))
    if mode is StalenessMode.OPEN_BOUNDED:
        if not sent.max_open:
            raise FieldRequired(field, f"{field} is required: OPEN_BOUNDED is open for at most that long")
        return Staleness(mode, parse_duration(sent.max_open, field))
    if sent.max_open:
        raise InvalidField(field, f"{field} is for OPEN_BOUNDED only")
    return Staleness(mode, None)
