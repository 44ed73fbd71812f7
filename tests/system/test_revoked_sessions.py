"""Sessions that end before their time, one registration at a time."""

import uuid
from typing import Any

import pytest

from guardhouse.common.v1 import errors_pb2
from guardhouse.ids import REGISTRATION, new_id
from guardhouse.session.v1 import session_pb2 as pb
from tests.plane import Plane
from tests.system.people import World


async def revoke(world: World, *registration_ids: str, **fields: Any) -> pb.RevokeSessionsResponse:
    request = pb.RevokeSessionsRequest(
        organization_id=world.organization_id, registration_ids=registration_ids, **fields
    )
    answer = await world.sessions.RevokeSessions(request)
    assert isinstance(answer, pb.RevokeSessionsResponse)
    return answer


async def reauthenticate(world: World, registration_id: str, **fields: Any) -> list[str]:
    """The revision token."""
    request = pb.ReauthenticateRequest(organization_id=world.organization_id, registration_id=registration_id, **fields)
    return [(await world.sessions.Reauthenticate(request)).revision_token]


async def test_a_revoked_session_asks_for_a_new_one_until_its_holder_has_authenticated(
    plane: Plane, world: World
) -> None:
    """Decisions 27, 34 and 35: of a person and of a machine, and of nobody else; what is not limited goes on."""
    limited, unlimited = await world.policy("1h"), await world.policy()
    laptop, phone = await world.enroll("alice"), await world.enroll("alice", "phone")
    machine = await world.enrollment.Register(await world.request(await world.service_token(), "builder"))
    ids = [it.registration.registration_id for it in (laptop, machine)]
    # With an authentication after the enrollment, and without one.
    at_least = await reauthenticate(world, ids[0], credential=world.id_token("alice"))
    assert await world.check(ids[0], limited, at_least) == "SESSION_FRESH"
    tried = await revoke(world, *ids, request_id="r0", validate_only=True)
    assert (tried.revision_token, [it.session.revoked for it in tried.results]) == ("", [True, True])
    assert await world.check(ids[0], limited) == "SESSION_FRESH"
    revoked = await revoke(world, *ids, request_id="r1")
    assert [(it.registration_id, it.session.revoked) for it in revoked.results] == [(each, True) for each in ids]
    token = [revoked.revision_token]
    assert [await world.check(each, limited, token) for each in ids] == ["SESSION_REVOKED"] * 2
    assert await world.check(ids[0], unlimited) == "NO_SESSION_LIMIT"
    assert await world.check(phone.registration.registration_id, limited) == "SESSION_FRESH"
    get = pb.GetSessionRequest(organization_id=world.organization_id, registration_id=ids[1])
    assert (await world.sessions.GetSession(get)).session.revoked
    expired = pb.ListSessionsRequest(organization_id=world.organization_id, only_expired=True)
    listed = (await world.sessions.ListSessions(expired)).sessions
    assert sorted(it.registration_id for it in listed) == sorted(ids)
    # An authentication that was made before is none; a repeated request ends nothing that began since.
    await plane.advance(1)
    at_least = await reauthenticate(world, ids[0], credential=world.id_token("alice"))
    again = await revoke(world, *ids, request_id="r1")
    assert await world.check(ids[0], limited, [*at_least, again.revision_token]) == "SESSION_FRESH"
    assert await world.check(ids[1], limited) == "SESSION_REVOKED"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_what_is_no_session_is_an_answer_of_its_own(plane: Plane, world: World) -> None:
    """Decision 36: the others are revoked."""
    policy = await world.policy("1h")
    known = (await world.enroll("alice")).registration.registration_id
    unknown = new_id(REGISTRATION, plane.clock.now())
    answer = await revoke(world, unknown, known, request_id=uuid.uuid4().hex)
    missing, found = answer.results
    assert missing.error.reason == errors_pb2.ERROR_REASON_REGISTRATION_NOT_FOUND
    assert found.session.revoked
    assert await world.check(known, policy, [answer.revision_token]) == "SESSION_REVOKED"
    none = await revoke(world, unknown, request_id=uuid.uuid4().hex)
    assert (none.revision_token, none.results[0].HasField("error")) == ("", True)
