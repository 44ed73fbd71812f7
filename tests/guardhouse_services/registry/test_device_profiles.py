"""Device profiles are written, listed and tried; on both engines."""

import pytest

from guardhouse.errors import (
    DeviceProfileIsDefault,
    DeviceProfileNotFound,
    EtagMismatch,
    InvalidField,
    LimitReached,
    OrganizationNotFound,
    PrecedenceTaken,
    RequestIdReused,
)
from guardhouse.ids import DEVICE_PROFILE, ORGANIZATION
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import device_profiles
from tests.guardhouse_services.registry.profiles import ADA, Profiles
from tests.guardhouse_services.registry.world import new


async def test_there_is_a_default_profile_before_anybody_has_written_one(profiles: Profiles) -> None:
    """domain 2: it is always the last, and matches everybody."""
    [[only]] = await profiles.list()
    assert only == await profiles.get(profiles.default_id)
    assert (only.default, only.name, only.match, only.precedence) == (True, "Default", "", 0)
    assert not only.HasField("create_time")
    matched = await profiles.match(email="ada@example.com")
    assert (matched.device_profile_id, [step.decides for step in matched.steps]) == (profiles.default_id, [True])


async def test_profiles_are_listed_in_the_order_in_which_they_are_asked(profiles: Profiles) -> None:
    """domain 2: by ascending precedence, which no two share; the default is the last."""
    for precedence in (30, 10, 20):
        await profiles.create(precedence, name=str(precedence))
    for size, lengths in ((1000, [4]), (3, [3, 1]), (2, [2, 2]), (1, [1, 1, 1, 1])):
        pages = await profiles.list(size)
        assert [len(page) for page in pages] == lengths
        assert [it.name for page in pages for it in page] == ["10", "20", "30", "Default"]
    with pytest.raises(PrecedenceTaken) as taken:
        await profiles.create(20)
    assert taken.value.metadata == {"precedence": "20"}
    second = (await profiles.list())[0][1]
    with pytest.raises(PrecedenceTaken):
        await profiles.update(pb.DeviceProfile(device_profile_id=second.device_profile_id, precedence=30), "precedence")


async def test_a_new_profile_has_the_settings_of_the_default_where_it_names_none(profiles: Profiles) -> None:
    """domain 2: a new profile is seeded by copying the default."""
    await profiles.set(profiles.default_id, allow_updates=True, lan_allow="30m", support_url="https://help.example")
    made = await profiles.create(settings=pb.DeviceProfileSettings(support_url="", switch_locked=True))
    told = made.settings
    assert (told.allow_updates, told.lan_allow, told.support_url, told.switch_locked) == (True, "30m0s", "", True)
    # What is copied is a copy.
    await profiles.set(profiles.default_id, allow_updates=False)
    assert (await profiles.get(made.device_profile_id)).settings.allow_updates


async def test_an_update_changes_what_its_mask_names(profiles: Profiles) -> None:
    """AIP-134: a setting that the mask names and the profile lacks gets its default."""
    made = await profiles.create(
        settings=pb.DeviceProfileSettings(
            lan_allow="30m", allow_updates=True, include=pb.Routes(routes=[pb.Route(host="wiki.example.com")])
        )
    )
    sent = pb.DeviceProfile(device_profile_id=made.device_profile_id, description="New", name="Not named")
    changed = await profiles.update(sent, "description", "settings.lan_allow", "settings.include")
    assert (changed.description, changed.name) == ("New", "Staff")
    assert not changed.settings.HasField("lan_allow")
    assert changed.settings.allow_updates
    assert [route.address for route in changed.settings.exclude.routes][:2] == ["10.0.0.0/8", "100.64.0.0/10"]
    excluding = await profiles.set(made.device_profile_id, exclude=pb.Routes())
    assert excluding.settings.WhichOneof("split_tunnel") == "exclude"
    assert not excluding.settings.exclude.routes
    including = await profiles.set(made.device_profile_id, include=pb.Routes())
    assert including.settings.WhichOneof("split_tunnel") == "include"
    reset = await profiles.update(pb.DeviceProfile(device_profile_id=made.device_profile_id), "settings")
    assert reset.settings == (await profiles.get(profiles.default_id)).settings


async def test_of_the_default_profile_only_settings_can_be_changed(profiles: Profiles) -> None:
    """domain 2: it matches everybody, and cannot be deleted."""
    before = await profiles.get(profiles.default_id)
    assert (await profiles.set(profiles.default_id, switch_locked=True)).settings.switch_locked
    changed = await profiles.get(profiles.default_id)
    assert (changed.default, changed.name, changed.settings.switch_locked) == (True, "Default", True)
    assert changed.HasField("create_time")
    for path in ("name", "match", "precedence", "enabled", "description"):
        with pytest.raises(InvalidField, match="only settings"):
            await profiles.update(pb.DeviceProfile(device_profile_id=profiles.default_id, match=ADA), path)
    with pytest.raises(DeviceProfileIsDefault) as kept:
        await profiles.delete(profiles.default_id)
    assert kept.value.metadata == {"device_profile_id": profiles.default_id}
    stale = pb.DeviceProfile(device_profile_id=profiles.default_id, etag=before.etag)
    with pytest.raises(EtagMismatch):
        await profiles.update(stale, "settings.allow_updates")


async def test_a_deleted_profile_is_gone(profiles: Profiles) -> None:
    made = await profiles.create()
    with pytest.raises(EtagMismatch):
        await profiles.delete(made.device_profile_id, etag="0123456789abcdef")
    gone = await profiles.delete(made.device_profile_id, etag=made.etag)
    assert (gone.device_profile, bool(gone.revision_token)) == (made, True)
    for call in (profiles.get, profiles.delete):
        with pytest.raises(DeviceProfileNotFound):
            await call(made.device_profile_id)
    assert len((await profiles.list())[0]) == 1


async def test_a_repeated_request_writes_once(profiles: Profiles) -> None:
    """AIP-155: and answers the profile as it was made, even if it is another one by now, or none."""
    call = profiles.world.call("once")
    first = await profiles.create(call=call)
    await profiles.set(first.device_profile_id, allow_updates=True)
    assert await profiles.create(call=call) == first
    with pytest.raises(RequestIdReused):
        await profiles.create(call=profiles.world.call("once", "another body"))
    gone = profiles.world.call("gone", method="Delete")
    deleted = await profiles.delete(first.device_profile_id, call=gone)
    assert (await profiles.delete(first.device_profile_id, call=gone)).device_profile == deleted.device_profile
    assert await profiles.create(call=call) == first
    assert len((await profiles.list())[0]) == 1


async def test_what_a_write_would_do_is_answered_and_not_done(profiles: Profiles) -> None:
    """AIP-163."""
    made = await profiles.create()
    before = await profiles.world.changes()
    other = await profiles.create(20, validate_only=True, name="Other")
    assert other.name == "Other"
    with pytest.raises(PrecedenceTaken):
        await profiles.create(10, validate_only=True)
    sent = pb.DeviceProfile(device_profile_id=made.device_profile_id, precedence=5)
    assert (await profiles.update(sent, "precedence", validate_only=True)).precedence == 5
    gone = await profiles.delete(made.device_profile_id, validate_only=True)
    assert (gone.device_profile, gone.revision_token) == (made, "")
    assert await profiles.list() == [[made, await profiles.get(profiles.default_id)]]
    assert await profiles.world.changes() == before


async def test_an_organization_has_so_many_profiles_and_no_more(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unbounded; the default is one more."""
    monkeypatch.setattr(device_profiles, "LIMIT", 2)
    await profiles.set(profiles.default_id, allow_updates=True)
    await profiles.create(1)
    made = await profiles.create(2)
    with pytest.raises(LimitReached) as reached:
        await profiles.create(3)
    assert reached.value.metadata == {"limit": "2"}
    await profiles.delete(made.device_profile_id)
    await profiles.create(3)


async def test_profiles_of_an_organization_that_there_is_not_are_not_there(profiles: Profiles) -> None:
    made = await profiles.create()
    profiles.world.organization = new(ORGANIZATION)
    for call in (profiles.create(), profiles.list(), profiles.match(), profiles.get(made.device_profile_id)):
        with pytest.raises(OrganizationNotFound):
            await call
    profiles.world.organization = await profiles.world.add_organization()
    with pytest.raises(DeviceProfileNotFound):
        await profiles.get(made.device_profile_id)
    with pytest.raises(DeviceProfileNotFound):
        await profiles.get(new(DEVICE_PROFILE))


async def test_somebody_gets_the_first_profile_that_matches(profiles: Profiles) -> None:
    """domain 2, decision 30a: and every profile says what it makes of somebody, and what it misses."""
    windows = await profiles.create(20, 'os.name == "windows"', name="Windows")
    ada = await profiles.create(10, ADA, name="Ada")
    await profiles.create(5, 'network == "office"', name="Office", enabled=False)
    told = await profiles.match(email="Ada@example.com", platform=pb.PLATFORM_WINDOWS, network="office")
    assert (told.device_profile_id, told.name) == (ada.device_profile_id, "Ada")
    shown = [(step.name, step.precedence, step.enabled, step.matched, step.decides) for step in told.steps]
    assert shown == [
        ("Office", 5, False, True, False),
        ("Ada", 10, True, True, True),
        ("Windows", 20, True, True, False),
        ("Default", 0, True, True, False),
    ]
    told = await profiles.match(email="eve@example.com", platform=pb.PLATFORM_WINDOWS)
    assert told.device_profile_id == windows.device_profile_id
    assert [list(step.missing) for step in told.steps] == [["network"], [], [], []]
    told = await profiles.match(service_token_id="svt_" + "1" * 32)
    assert told.device_profile_id == profiles.default_id
    assert [list(step.missing) for step in told.steps] == [["network"], ["identity.email"], ["os.name"], []]


async def test_a_pattern_that_matches_more_than_it_seems_to_is_warned_about(
    profiles: Profiles, servicer: RegistryServicer
) -> None:
    """Decision 30a."""
    profile = pb.DeviceProfile(name="Staff", precedence=1, match='identity.email matches ".*@example.com"')
    request = pb.CreateDeviceProfileRequest(organization_id=profiles.world.organization, device_profile=profile)
    answer = await servicer.CreateDeviceProfile(request, profiles.world.call())
    assert len(answer.warnings) == 1
    assert "column 24" in answer.warnings[0] or "column 1" in answer.warnings[0]
    quiet = pb.DeviceProfile(name="Staff", precedence=2, match=ADA)
    request = pb.CreateDeviceProfileRequest(organization_id=profiles.world.organization, device_profile=quiet)
    assert not (await servicer.CreateDeviceProfile(request, profiles.world.call())).warnings
