"""What our channels add to every call, on a real connection, blocking and with asyncio."""

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guardhouse import errors, revisions
from guardhouse.channel import ATTEMPTS, AioChannel, BlockingChannel, Policy
from guardhouse.common.v1 import errors_pb2
from guardhouse.errors import BY_REASON, GuardhouseError
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.identity.v1 import identity_pb2_grpc as rpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.status import DETAILS_KEY, from_rpc_error
from tests.guardhouse.scripted import ScriptedServer

ERRORS_PROTO = Path(__file__).parents[2] / "protos/guardhouse/common/v1/errors.proto"
REASONS = [name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()[1:]]


class Caller:
    """Calls the server through one of the two channels, under one policy."""

    def __init__(self, kind: str, address: str, **options: Any) -> None:
        self.kind = kind
        self.address = address
        self.policy = Policy(lambda: (("authorization", "Bearer key"),), **options)

    def __call__(self, stub: Any, method: str, request: Any, **options: Any) -> Any:
        if self.kind == "blocking":
            with BlockingChannel(grpc.insecure_channel(self.address), self.policy, "identity") as channel:
                return getattr(stub(channel), method)(request, **options)
        return asyncio.run(self._await(stub, method, request, options))

    async def _await(self, stub: Any, method: str, request: Any, options: dict[str, Any]) -> Any:
        async with AioChannel(grpc.aio.insecure_channel(self.address), self.policy, "identity") as channel:
            return await getattr(stub(channel), method)(request, **options)

    def get_user(self, organization_id: str = "org_1", **options: Any) -> Any:
        request = pb.GetUserRequest(organization_id=organization_id, user_id="usr_1")
        return self(rpc.UserServiceStub, "GetUser", request, **options)

    def revoke_user(self, organization_id: str = "org_1", **fields: str) -> Any:
        request = pb.RevokeUserRequest(organization_id=organization_id, user_id="usr_1", **fields)  # type: ignore[arg-type]
        return self(rpc.UserServiceStub, "RevokeUser", request)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        server.answers["GetUser"] = pb.GetUserResponse()
        server.answers["RevokeUser"] = pb.RevokeUserResponse()
        yield server


@pytest.fixture(params=["blocking", "aio"])
def call(request: pytest.FixtureRequest, server: ScriptedServer) -> Caller:
    return Caller(request.param, server.address)


def token(organization_id: str, revision: int, service: str = "identity", epoch: str = "first") -> str:
    return revisions.encode(service, organization_id, epoch, revision)


def learn(server: ScriptedServer, call: Caller, *tokens: str) -> None:
    for text in tokens:
        server.answers["RevokeUser"] = pb.RevokeUserResponse(revision_token=text)
        call.revoke_user()


def sent(server: ScriptedServer, call: Caller, organization_id: str = "org_1") -> list[str]:
    call.get_user(organization_id)
    return list(server.requests("GetUser")[-1].at_least)


def test_every_call_has_a_deadline(server: ScriptedServer, call: Caller) -> None:
    call.get_user()
    call.get_user(timeout=4.0)
    assert 5 < server.calls[0].seconds_left < 11  # gRPC rounds a little up
    assert 0 < server.calls[1].seconds_left < 5


def test_every_call_carries_the_credential(server: ScriptedServer, call: Caller) -> None:
    call.get_user(metadata=(("x-request-id", "mine"),))
    assert server.calls[0].metadata["authorization"] == "Bearer key"
    assert server.calls[0].metadata["x-request-id"] == "mine"


def test_mutations_get_a_request_id_of_their_own(server: ScriptedServer, call: Caller) -> None:
    call.revoke_user()
    call.revoke_user()
    first, second = (request.request_id for request in server.requests("RevokeUser"))
    assert re.fullmatch(r"[!-~]{1,64}", first)
    assert first != second


def test_the_callers_request_id_and_message_stay_as_they_are(server: ScriptedServer, call: Caller) -> None:
    call.revoke_user(request_id="mine")
    assert server.requests("RevokeUser")[0].request_id == "mine"
    request = pb.RevokeUserRequest(organization_id="org_1")
    call(rpc.UserServiceStub, "RevokeUser", request)
    assert request == pb.RevokeUserRequest(organization_id="org_1")


def test_a_retry_repeats_the_request_to_the_letter(server: ScriptedServer, call: Caller) -> None:
    learn(server, call, token("org_1", 1))
    server.answers["RevokeUser"] = [errors.Conflict("busy"), errors.StateStale("late"), pb.RevokeUserResponse()]
    call.revoke_user()
    _, first, second, third = server.requests("RevokeUser")
    assert first == second == third
    assert first.request_id


@pytest.mark.parametrize("failure", [errors.Conflict("busy"), grpc.StatusCode.UNAVAILABLE], ids=["typed", "untyped"])
def test_a_passing_failure_is_tried_three_times(
    server: ScriptedServer, call: Caller, failure: GuardhouseError | grpc.StatusCode
) -> None:
    server.answers["RevokeUser"] = failure
    with pytest.raises((errors.Conflict, errors.ServiceUnavailable)):
        call.revoke_user()
    assert len(server.calls) == ATTEMPTS == 3


def test_a_lasting_failure_is_tried_once(server: ScriptedServer, call: Caller) -> None:
    for failure in (errors.UserNotFound("usr_1"), errors.RateLimited("slow down", retry_after=0.01)):
        server.calls.clear()
        server.answers["GetUser"] = failure
        with pytest.raises(type(failure)):
            call.get_user()
        assert len(server.calls) == 1


def test_a_method_that_does_not_say_it_can_be_repeated_is_tried_once(server: ScriptedServer, call: Caller) -> None:
    server.answers["Check"] = errors.Conflict("busy")
    with pytest.raises(errors.Conflict):
        call(health_pb2_grpc.HealthStub, "Check", health_pb2.HealthCheckRequest())
    assert len(server.calls) == 1


def test_no_retry_waits_beyond_the_deadline(server: ScriptedServer, call: Caller) -> None:
    server.answers["GetUser"] = errors.StateStale("come back later", retry_after=60)
    with pytest.raises(errors.StateStale) as raised:
        call.get_user()
    assert len(server.calls) == 1
    assert raised.value.retry_after == 60


def test_a_call_is_answered_at_least_as_fresh_as_every_change_before(server: ScriptedServer, call: Caller) -> None:
    learn(server, call, token("org_1", 7), token("org_1", 9), token("org_1", 8))
    assert sent(server, call) == [token("org_1", 9)]


def test_tokens_go_where_they_matter(server: ScriptedServer, call: Caller) -> None:
    of_two, of_installation = token("org_2", 5), token("", 3)
    learn(server, call, token("org_1", 7), of_two, of_installation, token("org_1", 2, service="registry"))
    assert sent(server, call, "org_2") == [of_two, of_installation]
    assert len(sent(server, call, "org_1")) == 3
    assert sent(server, call, "org_3") == [of_installation]


def test_the_second_token_of_an_enrollment_is_learned(server: ScriptedServer, call: Caller) -> None:
    both = token("org_1", 4, service="registry"), token("org_1", 6)
    server.answers["Register"] = registry_pb2.RegisterResponse(revision_token=both[0], identity_revision_token=both[1])
    call(registry_pb2_grpc.EnrollmentServiceStub, "Register", registry_pb2.RegisterRequest(organization_id="org_1"))
    assert sent(server, call) == [*both]


def test_tokens_that_the_caller_names_are_sent_alone(server: ScriptedServer, call: Caller) -> None:
    learn(server, call, token("org_1", 7))
    call(rpc.UserServiceStub, "GetUser", pb.GetUserRequest(organization_id="org_1", at_least=["mine"]))
    assert list(server.requests("GetUser")[0].at_least) == ["mine"]


def test_a_restored_service_makes_its_tokens_be_forgotten(server: ScriptedServer, call: Caller) -> None:
    of_registry = token("org_1", 2, service="registry")
    learn(server, call, token("org_1", 7), of_registry)
    server.answers["GetUser"] = [
        errors.EpochChanged("restored", service="identity"),
        pb.GetUserResponse(),
        errors.EpochChanged("restored"),
        pb.GetUserResponse(),
    ]
    with pytest.raises(errors.EpochChanged):
        call.get_user()
    assert sent(server, call) == [of_registry]
    with pytest.raises(errors.EpochChanged):
        call.get_user()
    assert sent(server, call) == []


def test_a_token_of_a_new_epoch_replaces_the_old_ones(server: ScriptedServer, call: Caller) -> None:
    after_restore = token("org_1", 3, epoch="second")
    learn(server, call, token("org_1", 7), after_restore)
    assert sent(server, call) == [after_restore]


def test_a_token_in_an_unknown_form_does_not_fail_the_change(server: ScriptedServer, call: Caller) -> None:
    learn(server, call, "a form to come")
    assert sent(server, call) == []


def test_a_channel_may_keep_no_tokens(server: ScriptedServer, call: Caller) -> None:
    call.policy = Policy(lambda: (), keep_tokens=False)
    learn(server, call, token("org_1", 7))
    assert sent(server, call) == []


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_comes_back_as_its_class(server: ScriptedServer, call: Caller, reason: str) -> None:
    error = BY_REASON[reason].__new__(BY_REASON[reason])
    GuardhouseError.__init__(error, "what is wrong", retry_after=20.0, field="user_id")
    server.answers["GetUser"] = error
    with pytest.raises(GuardhouseError) as raised:
        call.get_user()
    found = raised.value
    assert type(found) is BY_REASON[reason]
    assert (found.reason, found.code) == (reason, error.code)
    assert (found.message, str(found)) == ("what is wrong", "what is wrong")
    assert found.metadata == {"field": "user_id"}
    assert found.retry_after == 20.0
    assert found.request_id == "trace-1"


def test_every_reason_has_a_class_with_the_code_of_the_contract() -> None:
    comments = re.findall(
        r"// ([A-Z_]+): (?:[^\n]*\n(?:  // [^\n]*\n)*)  ERROR_REASON_([A-Z_]+) =", ERRORS_PROTO.read_text()
    )
    assert {reason: code for code, reason in comments} == {reason: BY_REASON[reason].code for reason in REASONS}
    assert set(BY_REASON) == set(REASONS)


def test_an_error_that_is_raised_again_keeps_what_logs_want(server: ScriptedServer, call: Caller) -> None:
    server.answers["GetUser"] = errors.IdTokenInvalid(detail="the audience is another")
    with pytest.raises(errors.IdTokenInvalid) as raised:
        call.get_user()
    assert raised.value.detail == ""


def test_a_reason_to_come_keeps_its_code_and_the_class_of_the_code(server: ScriptedServer, call: Caller) -> None:
    error = errors.Unavailable("the moon is in the way")
    error.reason = "MOON"
    server.answers["GetUser"] = error
    with pytest.raises(errors.Unavailable) as raised:
        call.get_user()
    assert (raised.value.reason, raised.value.code, raised.value.message) == ("MOON", "UNAVAILABLE", error.message)
    assert len(server.calls) == 3, "that the code can be retried is known without the reason"


def test_a_status_of_grpcs_own_comes_nearest(server: ScriptedServer, call: Caller) -> None:
    for status, cls in ((grpc.StatusCode.UNIMPLEMENTED, GuardhouseError), (grpc.StatusCode.NOT_FOUND, errors.NotFound)):
        server.answers["GetUser"] = status
        with pytest.raises(cls) as raised:
            call.get_user()
        assert type(raised.value) is cls
        assert raised.value.code == status.name
        assert raised.value.message == "no more is known"


def test_a_server_that_does_not_answer_is_named(server: ScriptedServer, call: Caller) -> None:
    server.answers["GetUser"] = grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(errors.ServiceUnavailable, match="identity did not answer in time"):
        call.get_user(timeout=0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: whoever connects is refused.
        call.address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(errors.ServiceUnavailable, match=r"identity cannot be reached: .*refused"):
            call.get_user()


def test_details_of_somebody_else_are_passed_over() -> None:
    class Spoiled(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

        def details(self) -> str:
            return "overload"

        def trailing_metadata(self) -> Any:
            return ((DETAILS_KEY, b"\xff"),)

    assert isinstance(from_rpc_error(Spoiled()), errors.ServiceUnavailable)


def test_streams_carry_the_credential(server: ScriptedServer, call: Caller) -> None:
    server.answers["Watch"] = pb.WatchResponse(organization_id="org_1")

    async def watch() -> Any:
        async with AioChannel(grpc.aio.insecure_channel(server.address), call.policy) as channel:
            requests = (request async for request in _one(pb.WatchRequest()))
            return [message async for message in rpc.IdentityFeedServiceStub(channel).Watch(requests)]

    if call.kind == "aio":
        messages = asyncio.run(watch())
    else:
        with BlockingChannel(grpc.insecure_channel(server.address), call.policy) as channel:
            messages = list(rpc.IdentityFeedServiceStub(channel).Watch(iter([pb.WatchRequest()])))
    assert messages == [pb.WatchResponse(organization_id="org_1")]
    assert server.calls[0].metadata["authorization"] == "Bearer key"


async def _one(request: Any) -> Any:
    yield request
