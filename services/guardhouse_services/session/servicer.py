"""The contract's methods: syntax on the way in, messages on the way out."""

from collections.abc import AsyncIterator

from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.durations import parse_session_timeout
from guardhouse.errors import FieldRequired
from guardhouse.ids import ORGANIZATION, POLICY, REGISTRATION, check_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.clock import Clock
from guardhouse_services.feed import Feed, Send
from guardhouse_services.paging import Pages
from guardhouse_services.session import messages
from guardhouse_services.session.domain import CheckSession, Policy, Terms
from guardhouse_services.session.usecases import Session
from guardhouse_services.times import to_timestamp

MAX_CHECKS = 1000
PATHS = ("display_name", "description", "enabled", "filter", "action", "check_session")


class SessionServicer:
    """Every method of guardhouse.session.v1."""

    def __init__(self, clock: Clock, session: Session, pages: Pages, feed: Feed) -> None:
        self.session = session
        self._clock = clock
        self._pages = pages
        self._feed = feed

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

        policy, token = await self.session.update_policy(call, organization_id, policy_id, change)
        return pb.UpdatePolicyResponse(policy=messages.policy(policy), revision_token=token)

    async def DeletePolicy(self, request: pb.DeletePolicyRequest, call: Call) -> pb.DeletePolicyResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        return pb.DeletePolicyResponse(
            revision_token=await self.session.delete_policy(call, organization_id, policy_id)
        )

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

    async def CheckSession(self, request: pb.CheckSessionRequest, call: Call) -> pb.CheckSessionResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
        policy_id = check_id(request.policy_id, POLICY, "policy_id")
        verdicts, fresh_as_of = self.session.check(organization_id, ((registration_id, policy_id),))
        response = pb.CheckSessionResponse()
        answer, verdict = response.answer, verdicts[0]
        messages.fill(answer, verdict)
        answer.policy_id = verdict.policy_id
        answer.registration_id = verdict.registration_id
        answer.user_id = verdict.user_id
        messages.set_time(response.fresh_as_of, fresh_as_of)
        return response

    async def BatchCheckSessions(
        self, request: pb.BatchCheckSessionsRequest, call: Call
    ) -> pb.BatchCheckSessionsResponse:
        organization_id = check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.count(request.items, "items", MAX_CHECKS)
        items = [
            (
                check_id(item.registration_id, REGISTRATION, f"items[{index}].registration_id"),
                check_id(item.policy_id, POLICY, f"items[{index}].policy_id"),
            )
            for index, item in enumerate(request.items)
        ]
        verdicts, fresh_as_of = self.session.check(organization_id, items)
        response = pb.BatchCheckSessionsResponse()
        add, fill = response.answers.add, messages.fill
        for verdict in verdicts:
            answer = add()
            fill(answer, verdict)
            answer.user_id = verdict.user_id
        messages.set_time(response.fresh_as_of, fresh_as_of)
        return response

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
    )


def _check_session(policy: pb.Policy) -> CheckSession | None:
    if not policy.HasField("check_session"):
        return None
    check = policy.check_session
    if not check.enforce and not check.duration:
        return CheckSession(enforce=False, duration=None)
    return CheckSession(check.enforce, parse_session_timeout(check.duration, "policy.check_session.duration"))
