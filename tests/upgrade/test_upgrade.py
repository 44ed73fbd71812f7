"""From the release before to this one: nothing is lost, and whoever called before goes on calling.

The servers and clients of both releases are processes, each with the code of its own.
"""

import time
from contextlib import ExitStack

import pytest

from demo.plane import free_port_base
from guardhouse_services.config import SERVICES
from tests.upgrade.releases import OURS, Caller, Installation, Release
from tests.upgrade.story import Story, missing

HOUR = "1h0m0s"

# Servers and clients start several times over.
pytestmark = pytest.mark.timeout(300)


def live_through(story: Story, call: Caller) -> dict[str, str]:
    """People and machines come and go; answers the ids that the tests speak of."""
    story.found(call)
    ids = {"hour": story.policy(call, HOUR), "unlimited": story.policy(call)}
    ids["gateway"] = story.change(
        call, "api_keys.CreateApiKey", api_key={"display_name": "edge", "role": "ROLE_GATEWAY"}
    )["secret"]
    for name in ("alice", "bob", "carol", "dave"):
        made = story.enroll(call, name, f"machine-of-{name}")
        ids[name] = made["registration"]["registration_id"]
        ids[f"{name}'s token"] = made["token"]
        ids[f"user {name}"] = made["registration"]["user_id"]
    machines = story.change(call, "service_tokens.CreateServiceToken", display_name="machines")
    credential = {"client_id": machines["service_token"]["client_id"], "client_secret": machines["client_secret"]}
    made = story.register(call, {"service_token": credential}, "builder")
    ids["builder"] = made["registration"]["registration_id"]
    story.each(call, "Revoke", ids["bob"])
    removal = story.change(call, "users.RemoveUsers", user_ids=[ids["user carol"]])["removal"]["removal_id"]
    until_removed(story, call, removal)
    story.forget(ids["carol"])
    story.change(call, "users.RevokeUser", user_id=ids["user dave"])
    return ids


def until_removed(story: Story, call: Caller, removal_id: str) -> None:
    end = time.monotonic() + 60
    while not call("users.GetRemoval", organization_id=story.organization_id, removal_id=removal_id)["removal"].get(
        "done"
    ):
        assert time.monotonic() < end, "the removal was not carried out"
        time.sleep(0.1)


def judged(story: Story, call: Caller, ids: dict[str, str], key: str = "") -> dict[str, str]:
    return {
        name: story.check(call, ids[name], ids["hour"], story.tokens, key)
        for name in ("alice", "bob", "carol", "dave", "builder")
    }


JUDGED = {
    "alice": "SESSION_FRESH",
    "bob": "REGISTRATION_REVOKED",
    "carol": "REGISTRATION_UNKNOWN",
    "dave": "SESSION_REVOKED",
    "builder": "SESSION_FRESH",
}


def goes_on(story: Story, call: Caller, ids: dict[str, str]) -> None:
    """The main job works on what there is."""
    story.each(call, "Unrevoke", ids["bob"])
    assert story.check(call, ids["bob"], ids["hour"], story.tokens) == "SESSION_FRESH"
    story.each(call, "Revoke", ids["alice"])
    assert story.check(call, ids["alice"], ids["hour"], story.tokens) == "REGISTRATION_REVOKED"
    story.each(call, "Unrevoke", ids["alice"])
    before = call("registrations.GetRegistration", organization_id=story.organization_id, registration_id=ids["alice"])[
        "registration"
    ]
    again = story.enroll(call, "alice", "machine-of-alice")["registration"]
    assert again["registration_id"] != ids["alice"]
    assert (again["ipv4"], again["ipv6"]) == (before["ipv4"], before["ipv6"])
    ids["alice"] = again["registration_id"]
    assert story.check(call, ids["alice"], ids["hour"], story.tokens) == "SESSION_FRESH"
    back = story.enroll(call, "carol", "machine-of-carol")["registration"]
    assert back["user_id"] == ids["user carol"]
    story.each(call, "Delete", back["registration_id"])


def what_is_new(story: Story, new_call: Caller, old_call: Caller, ids: dict[str, str]) -> None:
    """What only the new release can be asked for has an effect in the old one, or none that disturbs it."""
    policy = story.policy(new_call, HOUR, staleness={"mode": "STALENESS_MODE_OPEN_BOUNDED", "max_open": "10m0s"})
    made = story.enroll(new_call, "erin", "machine-of-erin")
    registration_id, device_id = made["registration"]["registration_id"], made["device"]["device_id"]
    own = {"organization_id": story.organization_id, "registration_id": registration_id}
    new_call("registrations.Heartbeat", made["token"], **own, os_version="6.1")
    assert story.check(old_call, registration_id, policy, story.tokens) == "SESSION_FRESH"
    story.change(new_call, "devices.RevokeDevice", device_id=device_id)
    assert story.check(old_call, registration_id, ids["hour"], story.tokens) == "REGISTRATION_REVOKED"
    story.each(new_call, "Unrevoke", registration_id)
    left = new_call("registrations.Leave", made["token"], **own, request_id="leaving")
    assert story.check(old_call, registration_id, policy, [left["revision_token"]]) == "REGISTRATION_UNKNOWN"
    story.enroll(old_call, "erin", "machine-of-erin")


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
def test_an_upgrade_keeps_everything(previous: Release, installation: Installation, story: Story) -> None:
    """All four services of the old release, then all of ours, on the same databases."""
    with installation.servers(previous) as servers, Caller(previous, servers.profile) as call:
        ids = live_through(story, call)
        before = story.seen(call)
        assert judged(story, call, ids) == JUDGED
    with (
        installation.servers(OURS) as servers,
        Caller(OURS, servers.profile) as call,
        Caller(previous, servers.profile) as old_call,
    ):
        assert missing(story.seen(call), before) == []
        assert missing(story.seen(old_call), before) == []
        assert judged(story, call, ids) == JUDGED
        assert judged(story, old_call, ids, ids["gateway"]) == JUDGED
        story.repeat(call)
        story.repeat(old_call)
        assert missing(story.seen(call), before) == []
        own = {"organization_id": story.organization_id, "registration_id": ids["alice"]}
        assert call("sessions.GetSession", ids["alice's token"], **own)["session"]["user_id"] == ids["user alice"]
        goes_on(story, call, ids)
        goes_on(story, old_call, ids)
        assert servers.errors() == []


@pytest.mark.long
def test_the_services_are_upgraded_one_by_one(
    engine: str, previous: Release, installation: Installation, story: Story
) -> None:
    """In whatever order: neighbours of either release follow each other's feeds and call each other."""
    order = SERVICES if engine == "sqlite" else SERVICES[::-1]
    with installation.servers(previous) as servers, Caller(previous, servers.profile) as call:
        ids = live_through(story, call)
    for number in range(1, len(order)):
        with (
            installation.some(previous, *order[number:]) as old,
            installation.some(OURS, *order[:number]) as new,
            Caller(OURS, servers.profile) as call,
            Caller(previous, servers.profile) as old_call,
        ):
            old.wait()
            new.wait()
            assert judged(story, call, ids) == JUDGED
            goes_on(story, old_call, ids)
            story.each(call, "Revoke", ids["bob"])
            assert judged(story, old_call, ids) == JUDGED
            assert old.errors() == new.errors() == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_replicas_of_both_releases_serve_side_by_side(
    previous: Release, installation: Installation, story: Story
) -> None:
    """On the same databases, each release with neighbours of its own. What one writes the other answers with within
    the 3 s that a call waits for its revision tokens; then the old ones stop."""
    with ExitStack() as later:
        with installation.servers(previous) as old, Caller(previous, old.profile) as old_call:
            ids = live_through(story, old_call)
            new = later.enter_context(installation.servers(OURS, port_base=free_port_base()))
            new_call = later.enter_context(Caller(OURS, new.profile))
            assert judged(story, new_call, ids) == JUDGED
            for one, other in ((old_call, new_call), (new_call, old_call)):
                goes_on(story, one, ids)
                story.each(one, "Revoke", ids["bob"])
                assert judged(story, other, ids) == JUDGED
                erin = story.enroll(one, "erin", "machine-of-erin")["registration"]["registration_id"]
                policy = story.policy(one, HOUR)
                assert story.check(other, erin, policy, story.tokens) == "SESSION_FRESH"
                story.repeat(other, newest=2)
                assert missing(story.seen(new_call), story.seen(old_call)) == []
            what_is_new(story, new_call, old_call, ids)
            assert old.errors() == []
        story.change(new_call, "users.RemoveUsers", user_ids=[ids["user carol"]])
        goes_on(story, new_call, ids)
        assert new.errors() == []
