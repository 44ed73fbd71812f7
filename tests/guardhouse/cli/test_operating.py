"""An operator's commands against a real control plane."""

import json
import re
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import invocation
from tests.guardhouse.cli.commands import RunPlane
from tests.plane import Plane
from tests.system.people import World


async def shown(run_plane: RunPlane, line: str, stdin: str = "") -> Any:
    return json.loads((await run_plane(f"{line} --json", stdin=stdin)).stdout)


async def test_what_a_rehearsal_says_is_what_then_happens(
    run_plane: RunPlane, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invocation, "is_interactive", lambda: True)
    await world.enroll("alice", "laptop")
    await world.enroll("bob", "phone")
    (laptop, phone) = (await shown(run_plane, "devices list"))["devices"]

    said = "This deletes the device with 1 registration for good and releases 2 addresses. The seats of 1 user stay."
    assert (await run_plane(f"devices delete {laptop['device_id']} --dry-run")).stdout == f"{said}\n"
    rehearsed = await shown(run_plane, f"devices delete {laptop['device_id']} --dry-run")
    declined = await run_plane(f"devices delete {laptop['device_id']}", exit_code=1, stdin="n\n")
    assert f"{said} Continue?" in declined.stderr
    assert len(await world.live()) == 2
    # The first line is the answer, as a terminal would show it.
    agreed = (await run_plane(f"devices delete {laptop['device_id']} --json", stdin="y\n")).stdout.partition("\n")
    deleted = json.loads(agreed[2])
    for counted in ("registrations_deleted", "addresses_released", "users"):
        assert deleted[counted] == rehearsed[counted]
    assert [one.device_id for one in await world.live()] == [phone["device_id"]]
    assert await world.used_seats() == 2

    removal = "This removes 2 users, frees 2 seats and deletes 1 registration with their addresses for good."
    assert (await run_plane("users remove --all --dry-run")).stdout == f"{removal}\n"
    assert await world.used_seats() == 2
    gone = await run_plane("users remove --all", stdin="Example\ny\n")
    assert gone.stdout.splitlines()[-1].split() == ["done", "yes"]
    assert await world.used_seats() == 0
    assert not await world.live()


async def test_two_who_change_one_policy_at_once_do_not_undo_each_other(run_plane: RunPlane, world: World) -> None:
    policy = (await shown(run_plane, "policies create wiki --timeout 8h --staleness open:1h"))["policy"]
    assert policy["staleness"] == {"mode": "STALENESS_MODE_OPEN_BOUNDED", "max_open": "1h0m0s"}
    await run_plane(f"policies update {policy['policy_id']} --timeout 4h")
    late = await run_plane(f"policies update {policy['policy_id']} --timeout 1h --etag {policy['etag']}", exit_code=1)
    assert "ETAG_MISMATCH" in late.stderr
    deleted = await run_plane(f"policies delete {policy['policy_id']} --yes --etag {policy['etag']}", exit_code=1)
    assert "ETAG_MISMATCH" in deleted.stderr
    now = (await shown(run_plane, f"policies show {policy['policy_id']}"))["policy"]
    assert now["check_session"]["duration"] == "4h0m0s"


async def test_checks_are_decided_one_by_one_in_batches_and_in_a_stream(
    run_plane: RunPlane, world: World, plane: Plane
) -> None:
    made = await world.enroll("alice")
    registration, policy = made.registration.registration_id, await world.policy("1h")
    await world.check(registration, policy)  # With the tokens of both, so that session knows them from now on.
    line = f"{registration} {policy}"
    assert (await shown(run_plane, f"check {line}"))["answer"]["reason"] == "DECISION_REASON_SESSION_FRESH"
    batch = await shown(run_plane, "checks batch - --read-mask decision --read-mask reason", stdin=f"{line}\n{line}\n")
    assert [answer["decision"] for answer in batch["answers"]] == ["DECISION_ALLOW"] * 2
    stream = (await run_plane("checks stream", stdin=f"{line}\n")).stdout
    assert stream == f"{line} allow session-fresh\n"

    await plane.advance(2 * 3600)
    explained = (await run_plane(f"explain check {line}")).stdout
    assert "reauthenticate (session-expired)" in explained
    # The ID token is as old as the machine is slow.
    assert re.search(r"2h0m\d+s before the check; expired at", explained)
    assert f"guardhouse sessions reauthenticate {registration}" in explained
    assert (await shown(run_plane, f"explain check {line}"))["user"]["email"] == "alice@example.com"
    covered = (await run_plane(f"explain traffic {made.registration.ipv4} --kind request")).stdout
    for part in ("alice@example.com, holds a seat", "reauthenticate (session-expired)", "asks again    now", policy):
        assert part in covered


async def test_lists_are_filtered_by_when_something_was_heard_of(
    run_plane: RunPlane, world: World, plane: Plane
) -> None:
    await world.enroll("alice")
    await plane.advance(3600)
    await world.enroll("bob")
    now = plane.clock.now() // 1_000_000
    boundary = Timestamp(seconds=now - 1800).ToJsonString()
    before = (await shown(run_plane, f"registrations list --seen-before {boundary}"))["registrations"]
    after = (await shown(run_plane, f"registrations list --seen-after {boundary}"))["registrations"]
    newest = (await shown(run_plane, "registrations list --order-by seen_time --desc"))["registrations"]
    assert len(before) == len(after) == 1
    assert newest == after + before
    assert len((await shown(run_plane, "devices list --platform linux"))["devices"]) == 2
    assert not (await shown(run_plane, "devices list --platform mac"))["devices"]
