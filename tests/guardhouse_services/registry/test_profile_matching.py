"""Which device profile a registration has, whatever has changed; on both engines."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse.errors import InvalidField, LeaveNotAllowed, RegistrationNotFound
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.registry import metrics, store
from guardhouse_services.registry.domain import PostureChecks
from guardhouse_services.registry.gateways import show
from guardhouse_services.registry.messages import to_event, to_profile_deleted_event, to_profile_event
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases import effects, enrollments, profile_matching
from guardhouse_services.registry.usecases.enrollments import Enrolled
from tests.guardhouse_services.registry.profiles import Profiles
from tests.guardhouse_services.registry.world import World, machine, name, user


async def profile_of(world: World, enrolled: Enrolled) -> str:
    return (await world.find(name(enrolled))).device_profile_id


async def progress(world: World, profiles: Profiles) -> tuple[int, int, bool]:
    """How many a pass has looked at and moved, and whether it has ended."""
    request = pb.ListDeviceProfilesRequest(organization_id=world.organization)
    told = (await profiles.servicer.ListDeviceProfiles(request, world.call())).matching
    return told.registrations_checked, told.registrations_moved, told.HasField("end_time")


async def match_all(world: World) -> None:
    await world.registry.profile_matching.match_all()


async def test_a_registration_has_the_first_profile_that_matches_it_from_the_beginning(
    world: World, profiles: Profiles
) -> None:
    """domain 2: by what the sign-in said, and by what the device says."""
    ada, token = user(), machine()
    by_email = await profiles.create(10, f'identity.email == "{ada}@example.com"')
    by_token = await profiles.create(20, f'identity.service_token_uuid == "{token}"')
    by_group = await profiles.create(30, 'any(identity.groups.name[*] in {"berlin"}) and os.name == "linux"')
    for holder, wanted in ((ada, by_email), (token, by_token), (user(), by_group), (machine(), None)):
        enrolled = await world.enroll(holder)
        wanted_id = wanted.device_profile_id if wanted is not None else profiles.default_id
        assert enrolled.registration.device_profile_id == await profile_of(world, enrolled) == wanted_id


async def test_another_profile_follows_from_what_a_heartbeat_says(world: World, profiles: Profiles) -> None:
    """domain 2: os.version and network are the device's word; one heartbeat is one event, whatever is new in it."""
    office = await profiles.create(10, 'network == "office"')
    newer = await profiles.create(20, 'os.version == "7.0"')
    enrolled, beside = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    before = len(await world.changes())
    await world.beat(enrolled, os_version="7.0", checks=PostureChecks(("disk",)))
    assert await profile_of(world, enrolled) == newer.device_profile_id
    # What a device runs is so for all its registrations.
    assert await profile_of(world, beside) == newer.device_profile_id
    [events] = (await world.changes())[before:]
    assert sorted(events) == sorted(("active", name(it)) for it in (enrolled, beside))
    told = (await world.snapshot())[name(enrolled)]
    assert (told.registration.device_profile_id, list(told.posture.passed)) == (newer.device_profile_id, ["disk"])
    assert told.registration.device_profile_time.ToMicroseconds() > told.registration.create_time.ToMicroseconds()
    await world.beat(enrolled, network="office")
    assert await profile_of(world, enrolled) == office.device_profile_id
    assert await profile_of(world, beside) == newer.device_profile_id
    # Nothing said is as before, and nothing is said of what is as it was.
    before = len(await world.changes())
    await world.beat(enrolled, client_version="3.0")
    await world.beat(enrolled, os_version="7.0", network="office")
    assert await profile_of(world, enrolled) == office.device_profile_id
    assert len(await world.changes()) == before
    await world.beat(enrolled, network="")
    assert await profile_of(world, enrolled) == newer.device_profile_id


async def test_another_profile_follows_from_what_identity_says(world: World, profiles: Profiles) -> None:
    """domain 2: the groups of a user change, and so does the profile of all that the user has."""
    staff = await profiles.create(10, 'any(identity.groups.name[*] in {"staff"})')
    ada = user()
    enrolled = [await world.enroll(ada), await world.enroll(ada)]
    await world.revoke(name(enrolled[1]))
    other = await world.enroll()
    before = len(await world.changes())
    await world.follow(world.identity.says(ada, "ada@example.com", ["staff"]))
    assert {await profile_of(world, it) for it in enrolled} == {staff.device_profile_id}
    assert await profile_of(world, other) == profiles.default_id
    assert [len(each) for each in (await world.changes())[before:]] == [2]
    # A fact that is told again, as a snapshot does, changes nothing.
    await world.follow(world.identity.says(ada, "ada@example.com", ["staff"]))
    assert len(await world.changes()) == before + 1
    await world.follow(world.identity.says(ada, "ada@example.com"))
    assert {await profile_of(world, it) for it in enrolled} == {profiles.default_id}


async def test_people_with_more_registrations_than_a_transaction_tells_of_are_matched_in_steps(
    world: World, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff = await profiles.create(10, 'any(identity.groups.name[*] in {"staff"})')
    ada = user()
    enrolled = [await world.enroll(ada) for _ in range(3)]
    await match_all(world)
    monkeypatch.setattr(effects, "STEP", 2)
    await world.follow(world.identity.says(ada, "ada@example.com", ["staff"]))
    assert {await profile_of(world, it) for it in enrolled} == {profiles.default_id}
    await match_all(world)
    assert {await profile_of(world, it) for it in enrolled} == {staff.device_profile_id}


async def test_another_profile_follows_from_what_is_written(world: World, profiles: Profiles) -> None:
    """domain 2: a profile that is made, changed, switched off or deleted is matched with everybody, revoked or not."""
    ada, bob = await world.enroll(), await world.enroll()
    await world.revoke(name(bob))
    made = await profiles.create(10, 'os.name == "linux"')
    assert await profile_of(world, ada) == profiles.default_id
    await match_all(world)
    assert {await profile_of(world, it) for it in (ada, bob)} == {made.device_profile_id}
    sent = pb.DeviceProfile(device_profile_id=made.device_profile_id, match='os.name == "mac"')
    for path, expected in (("match", profiles.default_id), ("match", made.device_profile_id)):
        await profiles.update(sent, path)
        await match_all(world)
        assert {await profile_of(world, it) for it in (ada, bob)} == {expected}
        sent.match = 'os.name in {"linux" "mac"}'
    first = await profiles.create(5, 'os.name == "linux"', enabled=False)
    await match_all(world)
    assert await profile_of(world, ada) == made.device_profile_id
    await profiles.update(pb.DeviceProfile(device_profile_id=first.device_profile_id, enabled=True), "enabled")
    await match_all(world)
    assert await profile_of(world, ada) == first.device_profile_id
    await profiles.update(pb.DeviceProfile(device_profile_id=first.device_profile_id, precedence=15), "precedence")
    await match_all(world)
    assert await profile_of(world, ada) == made.device_profile_id
    await profiles.delete(made.device_profile_id)
    await match_all(world)
    assert {await profile_of(world, it) for it in (ada, bob)} == {first.device_profile_id}
    records = [record for record in await world.records() if record.actor == "job:match device profiles"]
    assert set(records[-1].objects) == {name(ada), name(bob)}


async def test_everybody_is_matched_in_steps_which_a_crash_does_not_take_back(
    world: World, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded steps, whose place is kept; who is moved is told of, and nobody else; a new change begins anew."""
    monkeypatch.setattr(profile_matching, "STEP", 2)
    enrolled = [await world.enroll(machine()) for _ in range(5)]
    ids = " ".join(f'"{it.registration.holder.service_token_id}"' for it in enrolled[:3])
    mine = await profiles.create(10, f"identity.service_token_uuid in {{{ids}}}")
    before, organization_id = len(await world.changes()), world.organization

    async def step() -> bool:
        return await world.database.write(lambda tx: profile_matching._step(tx, organization_id))

    assert await progress(world, profiles) == (0, 0, False)
    assert await step()
    assert await progress(world, profiles) == (2, 2, False)
    assert await step()
    assert await progress(world, profiles) == (4, 3, False)
    assert [len(each) for each in (await world.changes())[before:]] == [2, 1]
    await match_all(world)
    assert await progress(world, profiles) == (5, 3, True)
    assert [await profile_of(world, it) == mine.device_profile_id for it in enrolled] == [True] * 3 + [False] * 2
    assert not await step()
    await profiles.set(mine.device_profile_id, allow_updates=True)
    assert await progress(world, profiles) == (5, 3, True), "settings move nobody"
    await profiles.create(20, 'os.name == "mac"')
    assert await progress(world, profiles) == (0, 0, False)


async def test_an_enrollment_gets_a_profile_that_is_written_while_it_is_under_way(
    world: World, profiles: Profiles
) -> None:
    """Whichever of the two is first: the enrollment sees the profile, or the pass sees the registration."""
    linux = 'os.name == "linux"'

    async def before_the_activation() -> None:
        made.append((await profiles.create(10, linux)).device_profile_id)
        await match_all(world)

    made: list[str] = []
    attempt = await world.attempt()
    async with world.before_write(2, before_the_activation):
        enrolled = await world.register(attempt)
    assert enrolled.registration.device_profile_id == made[0]


async def test_an_enrollment_that_has_read_the_profiles_is_waited_for(
    world: World, profiles: Profiles, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its registration is none yet when the pass comes by, which looks at enrollments under way for that reason."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: nobody comes by")
    looked, go, rules = threading.Event(), threading.Event(), store.device_profiles.rules

    def slowly(*arguments: Any) -> Any:
        found = rules(*arguments)
        if not looked.is_set():
            looked.set()
            go.wait(5)
        return found

    attempt = await world.attempt()
    monkeypatch.setattr(store.device_profiles, "rules", slowly)
    enrolling = asyncio.create_task(world.register(attempt))
    assert await asyncio.to_thread(looked.wait, 5)
    made = await profiles.create(10, 'os.name == "linux"')
    matching = asyncio.create_task(match_all(world))
    done, _ = await asyncio.wait([matching], timeout=0.5)
    go.set()
    enrolled = await enrolling
    await matching
    assert not done
    assert enrolled.registration.device_profile_id == profiles.default_id
    assert await profile_of(world, enrolled) == made.device_profile_id


async def test_what_nobody_could_lock_is_not_forgotten(world: World, profiles: Profiles, engine: str) -> None:
    """A heartbeat waits for nobody; what it says is written with the profile that follows from it, or later."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: nothing is ever locked")
    newer = await profiles.create(10, 'os.version == "7.0"')
    office = await profiles.create(20, 'network == "office"')
    enrolled, beside = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    locked = sa.select(tables.registration).where(tables.registration.c.registration_id == name(beside))
    with world.database.engine.connect() as connection, connection.begin():
        connection.execute(locked.with_for_update())
        await world.beat(enrolled, beside, os_version="7.0", network="office")
        assert await profile_of(world, enrolled) == office.device_profile_id
        device = await world.registry.devices.get(world.organization, enrolled.device.device_id)
        assert device.claims.os_version == "6.1"
    await world.registry.heartbeats.flush()
    assert {await profile_of(world, it) for it in (enrolled, beside)} == {newer.device_profile_id}
    assert (await world.find(name(beside))).network == "office"


async def test_registrations_are_listed_by_their_profile(world: World, profiles: Profiles) -> None:
    """contracts: ListRegistrations filters by profile, the default among them."""
    tokens = [machine() for _ in range(3)]
    made = await profiles.create(10, f'identity.service_token_uuid == "{tokens[0]}"')
    enrolled = [await world.enroll(token) for token in tokens]

    async def listed(device_profile_id: str) -> list[str]:
        request = pb.ListRegistrationsRequest(
            organization_id=world.organization, device_profile_id=device_profile_id, page_size=1
        )
        found = []
        while True:
            page = await profiles.servicer.ListRegistrations(request, world.call())
            found += [it.registration_id for it in page.registrations]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    assert await listed(made.device_profile_id) == [name(enrolled[0])]
    assert await listed(profiles.default_id) == [name(it) for it in enrolled[1:]]
    assert len(await listed("")) == 3


async def test_a_registration_whose_profile_has_just_been_deleted_has_the_settings_of_the_default(
    world: World, profiles: Profiles
) -> None:
    made = await profiles.create(10, 'os.name == "linux"', settings=pb.DeviceProfileSettings(switch_locked=True))
    enrolled = await world.enroll()
    request = pb.GetRegistrationRequest(organization_id=world.organization, registration_id=name(enrolled))

    async def configuration() -> pb.DeviceConfiguration:
        return (await profiles.servicer.GetRegistration(request, world.call())).configuration

    told = await configuration()
    assert (told.device_profile_id, told.settings.switch_locked) == (made.device_profile_id, True)
    await profiles.delete(made.device_profile_id)
    told = await configuration()
    assert (told.device_profile_id, told.settings.switch_locked) == (profiles.default_id, False)


async def test_a_device_hears_with_its_heartbeat_that_its_configuration_is_another_one(
    world: World, profiles: Profiles
) -> None:
    """By the etag, which another match or name leaves as it is."""
    enrolled = await world.enroll()

    async def told() -> tuple[str, str]:
        caller = await world.registry.callers.device(enrolled.token)
        found = await profiles.servicer.Heartbeat(
            pb.HeartbeatRequest(organization_id=world.organization, registration_id=name(enrolled)),
            world.call()._replace(caller=caller),
        )
        request = pb.GetRegistrationRequest(organization_id=world.organization, registration_id=name(enrolled))
        configuration = (await profiles.servicer.GetRegistration(request, world.call())).configuration
        assert (found.device_profile_id, found.configuration_etag) == (
            configuration.device_profile_id,
            configuration.etag,
        )
        return found.device_profile_id, found.configuration_etag

    first = await told()
    assert first[0] == profiles.default_id
    await profiles.set(profiles.default_id, switch_locked=True)
    second = await told()
    assert second[0] == profiles.default_id
    assert second[1] != first[1]
    made = await profiles.create(10, 'os.name == "linux"')
    await match_all(world)
    third = await told()
    assert third[0] == made.device_profile_id
    sent = pb.DeviceProfile(device_profile_id=made.device_profile_id, name="Other", match='os.name != "mac"')
    await profiles.update(sent, "name", "match")
    assert await told() == third
    await profiles.set(made.device_profile_id, allow_updates=True)
    assert (await told())[1] != third[1]


# Decision 18: who may leave


async def test_a_device_leaves_only_if_its_profile_lets_it(world: World, profiles: Profiles) -> None:
    """Decision 18: `allowed_to_leave`, which it is by default; an administrator can always delete it."""
    kept = await profiles.create(10, 'os.name == "linux"', settings=pb.DeviceProfileSettings(allowed_to_leave=False))
    enrolled = await world.enroll()
    with pytest.raises(LeaveNotAllowed, match="an administrator can delete the registration") as refused:
        await world.leave(enrolled, "first")
    assert refused.value.metadata == {"registration_id": name(enrolled)}
    assert await world.states(enrolled) == ["ACTIVE"]
    await profiles.set(kept.device_profile_id, allowed_to_leave=True)
    await world.leave(enrolled, "first")
    # What was done once is answered again, whatever may be done by now.
    await profiles.set(kept.device_profile_id, allowed_to_leave=False)
    await world.leave(enrolled, "first")
    with pytest.raises(RegistrationNotFound):
        await world.leave(enrolled, "second")
    other = await world.enroll()
    assert await world.delete(name(other)) == {name(other): "DELETED"}


async def test_the_default_profile_says_it_as_well(world: World, profiles: Profiles) -> None:
    """Decision 18: by default a device may leave."""
    first, second = await world.enroll(), await world.enroll()
    await world.leave(first)
    await profiles.set(profiles.default_id, allowed_to_leave=False)
    with pytest.raises(LeaveNotAllowed, match="'Default'"):
        await world.leave(second)


async def test_a_managed_device_never_leaves(world: World, profiles: Profiles) -> None:
    """Decision 18: whatever its profile says. That it is managed is what its enrollment said."""
    await profiles.set(profiles.default_id, allowed_to_leave=True)
    managed, own = await world.enroll(managed=True), await world.enroll()
    assert (managed.registration.managed, own.registration.managed) == (True, False)
    with pytest.raises(LeaveNotAllowed, match="managed"):
        await world.leave(managed)
    await world.leave(own)
    assert await world.states(managed, own) == ["ACTIVE", "DELETED"]
    assert await world.delete(name(managed)) == {name(managed): "DELETED"}


# Who is told


async def test_a_gateway_sees_what_clients_are_told_and_not_whom_a_profile_matches(
    world: World, profiles: Profiles
) -> None:
    """A match names people, and is nobody's business but the registry's."""
    made = await profiles.create(10, 'identity.email == "ada@example.com"', description="For Ada")
    enrolled = await world.enroll()
    stored = await world.registry.device_profiles.get(world.organization, made.device_profile_id)
    shown = show(to_profile_event(stored), world.organization)
    assert shown is not None
    seen = shown.device_profile
    assert (seen.device_profile_id, seen.name, seen.settings) == (made.device_profile_id, made.name, made.settings)
    assert not seen.match
    assert not seen.description
    assert not seen.HasField("precedence")
    assert not seen.etag
    registration = show(to_event(enrolled.registration), world.organization)
    assert registration is not None
    assert registration.registration.registration.device_profile_id == profiles.default_id
    gone = show(to_profile_deleted_event(made.device_profile_id), world.organization)
    assert gone is not None
    assert gone.device_profile_deleted == made.device_profile_id


async def test_devices_are_found_by_the_profile_that_they_were_last_seen_with(world: World, profiles: Profiles) -> None:
    """Of the registration that was heard of last; the default profile, too, and whatever else is asked for."""
    holder = user()
    made = await profiles.create(10, f'identity.email == "{holder}@example.com"')
    shared = [await world.enroll(holder, "laptop"), await world.enroll(machine(), "laptop")]
    alone, other = await world.enroll(holder), await world.enroll()
    gone = await world.enroll(holder, "gone")
    await world.delete(name(gone))
    laptop = shared[0].device.device_id

    async def found(profile_id: str, **asked: Any) -> list[str]:
        about: dict[str, Any] = {"organization_id": world.organization, "device_profile_id": profile_id, **asked}
        request = pb.ListDevicesRequest(**about, active_registrations=pb.ACTIVE_REGISTRATIONS_INCLUDE)
        return [it.device_id for it in (await profiles.servicer.ListDevices(request, world.call())).devices]

    assert await found(made.device_profile_id) == [alone.device.device_id]
    assert await found(profiles.default_id) == [laptop, other.device.device_id]
    world.clock.advance(600)
    await world.beat(shared[0])
    assert await found(made.device_profile_id) == [laptop, alone.device.device_id]
    assert await found(made.device_profile_id, device_ids=[laptop]) == [laptop]
    assert await found(profiles.default_id) == [other.device.device_id]
    with pytest.raises(InvalidField) as refused:
        await found(laptop)
    assert refused.value.field == "device_profile_id"


async def test_how_long_a_pass_takes_is_a_figure(world: World, profiles: Profiles) -> None:
    async def seconds(*, per_organization: bool) -> list[float]:
        figures = await world.database.read(lambda tx: metrics.figures(tx, per_organization))
        (found,) = [it for it in figures if it.name == "guardhouse_device_profile_pass_seconds"]
        return list(found.samples.values())

    assert await seconds(per_organization=False) == [0]
    world.clock.stop()
    await profiles.create(10, 'os.name == "linux"')
    world.clock.advance(90)
    assert await seconds(per_organization=False) == await seconds(per_organization=True) == [90]
    await match_all(world)
    assert await seconds(per_organization=False) == await seconds(per_organization=True) == [0]


async def test_more_registrations_than_a_transaction_may_tell_of_are_matched_in_steps(
    world: World, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device has many, or many devices are brought up to date at once. Nobody is left out, and none waits for it."""
    monkeypatch.setattr(store.heartbeats, "MOST", 4)
    monkeypatch.setattr(profile_matching, "STEP", 4)
    newer = await profiles.create(10, 'os.version == "7.0"')
    on_device = [await world.enroll(machine(), "laptop") for _ in range(5)]
    apart = [await world.enroll() for _ in range(2)]
    await match_all(world)
    before = len(await world.all_changes())
    await world.beat(on_device[0], *apart, os_version="7.0", network="office")
    at_once = (await world.all_changes())[before:]
    assert await progress(world, profiles) == (0, 0, False)
    await match_all(world)
    changes = (await world.all_changes())[before:]
    assert max(len(each.events) for each in changes) <= 4
    assert [len(each.events) for each in at_once] == [3]
    for it in (*on_device, *apart):
        assert await profile_of(world, it) == newer.device_profile_id
    # Few of them are matched with the heartbeat itself.
    await world.beat(apart[0], os_version="8.0")
    assert await profile_of(world, apart[0]) == profiles.default_id
    assert await progress(world, profiles) == (7, 4, True)
    # Nor does the device's next enrollment tell of them all.
    monkeypatch.setattr(enrollments, "STEP", 4)
    before = len(await world.all_changes())
    claims = replace(on_device[0].device.claims, os_version="9.0")
    attempt = await world.attempt(machine(), "laptop")
    await world.register(replace(attempt, claims=claims))
    assert await progress(world, profiles) == (0, 0, False)
    await match_all(world)
    assert max(len(each.events) for each in (await world.all_changes())[before:]) <= 4
    assert await profile_of(world, on_device[4]) == profiles.default_id
