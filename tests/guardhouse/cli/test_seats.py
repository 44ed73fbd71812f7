"""Seats on the command line: the forecast and the explanations are sentences (decision 7)."""

import json

import pytest

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.cli.commands import NOON, ORGANIZATION, USER, Run
from tests.guardhouse.scripted import ScriptedServer


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (pb.GetSeatUsageResponse(used=3), "They are unlimited."),
        (pb.GetSeatUsageResponse(used=3, purchased=3, available=0), "None is left."),
        (
            pb.GetSeatUsageResponse(used=3, purchased=9, available=6),
            "At the rate of the last 30 days they do not run out.",
        ),
        (
            pb.GetSeatUsageResponse(used=3, purchased=9, available=6, seats_per_day=0.25, exhaust_time=NOON),
            "At the rate of the last 30 days, 0.25 a day, they run out on 2026-09-2",
        ),
    ],
)
def test_the_forecast_is_a_sentence(
    run: Run, installation: ScriptedServer, usage: pb.GetSeatUsageResponse, sentence: str
) -> None:
    installation.answers["GetSeatUsage"] = usage
    for line in ("seats", "seats show"):
        assert sentence in run(line).stdout


def test_a_seat_is_explained_with_those_before_it(run: Run, installation: ScriptedServer) -> None:
    freed = pb.FreedSeat(take_time=NOON, free_time=NOON, taken_by=pb.SEAT_EVENT_ACCESS, event_id="once")
    freed.cause = pb.SEAT_FREE_CAUSE_EXPIRED
    answer = pb.ExplainSeatResponse(explanation="The user holds no seat.", freed=[freed])
    installation.answers["ExplainSeat"] = answer
    first, _, row = run(f"seats explain {USER}").stdout.splitlines()
    assert first == "The user holds no seat."
    assert {"access", "once", "expired"} <= set(row.split())
    assert json.loads(run(f"seats explain {USER} --json").stdout)["freed"][0]["event_id"] == "once"
    answer.ClearField("freed")
    assert run(f"seats explain {USER}").stdout == "The user holds no seat.\n"


def test_who_would_be_removed_is_listed_with_the_reason_and_why_nobody_is(
    run: Run, installation: ScriptedServer
) -> None:
    """Decision 6."""
    seat = pb.Seat(user_id=USER, email="ada@example.com", active_time=NOON)
    answer = pb.PreviewSeatExpirationResponse(seats=[pb.ExpiringSeat(seat=seat, reason="There was no activity.")])
    installation.answers["PreviewSeatExpiration"] = answer
    result = run("seats expiring")
    assert "ada@example.com" in result.stdout
    assert "There was no activity." in result.stdout
    assert result.stderr == ""
    answer.held_up = "the registry is silent"
    assert "Nobody is removed at the moment: the registry is silent." in run("seats expiring").stderr
    assert json.loads(run("seats expiring --json").stdout)["held_up"] == "the registry is silent"


def test_a_seat_limit_and_an_expiration_can_be_tried(run: Run, installation: ScriptedServer) -> None:
    """Decision 4."""
    installation.answers["GetOrganization"] = pb.GetOrganizationResponse()
    installation.answers["UpdateOrganization"] = lambda request: pb.UpdateOrganizationResponse(
        organization=request.organization, seats_used=3
    )
    said = run("organizations update --seat-limit 5 --dry-run").stdout
    assert said == "This would do. The seat limit is 5 then, and 3 seats are in use.\n"
    run("organizations update --seat-expiration 2160h")
    run("organizations update --seat-expiration never")
    tried, on, off = installation.requests("UpdateOrganization")
    assert (tried.organization_id, tried.validate_only, on.validate_only) == (ORGANIZATION, True, False)
    assert [request.organization.seat_expiration for request in (on, off)] == ["2160h", ""]
    assert list(on.update_mask.paths) == list(off.update_mask.paths) == ["seat_expiration"]


def test_platforms_are_named_one_by_one_or_none_at_all(run: Run, installation: ScriptedServer) -> None:
    """Decision 19."""
    installation.answers["GetOrganization"] = pb.GetOrganizationResponse()
    installation.answers["UpdateOrganization"] = lambda request: pb.UpdateOrganizationResponse(
        organization=request.organization
    )
    run("organizations update --multi-user-platform linux --multi-user-platform windows")
    run("organizations update --no-multi-user-platform --delete-revoked-after 720h")
    run("organizations update --delete-revoked-after never")
    both, none, never = installation.requests("UpdateOrganization")
    windows, linux = registry.PLATFORM_WINDOWS, registry.PLATFORM_LINUX
    assert list(both.organization.multi_user_platforms) == [linux, windows]
    assert list(none.organization.multi_user_platforms) == []
    assert list(none.update_mask.paths) == ["delete_revoked_after", "multi_user_platforms"]
    assert [it.organization.delete_revoked_after for it in (none, never)] == ["720h", ""]
    assert list(never.update_mask.paths) == ["delete_revoked_after"]
    run("organizations update --no-multi-user-platform --multi-user-platform mac", exit_code=2)
    assert len(installation.requests("UpdateOrganization")) == 3
