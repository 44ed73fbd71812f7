"""An agent against a real control plane: what becomes of its registration, whatever fails on the way."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from guardhouse import aio
from guardhouse.agent.agent import Agent
from guardhouse.agent.folder import Folder, Kept
from guardhouse.agent.keeper import Keeper, Means, NobodySignedIn, Orders, Problem, Whose
from guardhouse.agent.machine import Standing, Task
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.durations import DAY, SECOND
from guardhouse.enrollment import rotate_aio
from guardhouse.keys import CURVE25519
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.registry.v1 import registry_pb2_grpc
from guardhouse.session.v1 import session_pb2 as session
from tests.plane import Plane
from tests.system.people import World


class Machine:
    """A machine with an agent, which may die and be started again."""

    def __init__(self, plane: Plane, path: Path, means: Means, rotate: int | None = DAY) -> None:
        self.plane = plane
        self.folder = Folder(path)
        self.means = means
        profile = Profile(
            registry=f"127.0.0.1:{plane.settings.public_port('registry')}",
            session=f"127.0.0.1:{plane.settings.public_port('session')}",
            ca=plane.settings.tls_path / "ca.crt",
            organization_id=plane.organization,
        )
        claims = pb.DeviceClaims(hardware_id="machine", platform=pb.PLATFORM_LINUX, client_version="1")
        self.orders = Orders(profile, claims, SECOND, rotate)
        self.agent = self._begun()

    def _begun(self) -> Agent:
        return Agent(self.orders, self.folder, self.plane.clock, self.means)

    async def restart(self) -> None:
        await self.agent.close()
        self.agent = self._begun()

    @property
    def keeper(self) -> Keeper:
        return self.agent.keepers[Whose()]

    @property
    def kept(self) -> Kept:
        assert self.keeper.kept is not None
        return self.keeper.kept

    async def advance(self, seconds: float) -> None:
        """So long that the checks have to catch up, or less."""
        if seconds > 10:
            await self.plane.advance(seconds)
        else:
            self.plane.clock.advance(seconds)

    async def go_on(self, times: int = 1, seconds: float = 2.0) -> list[Problem]:
        """Does what is due, with a pause before each time; what is wrong at the end."""
        problems = []
        for _ in range(times):
            await self.advance(seconds)
            problems = await self.agent.once()
        return problems


@pytest.fixture
async def machine(plane: Plane, world: World, tmp_path: Path) -> Machine:
    """One that a service token has enrolled."""
    tmp_path.joinpath("state").mkdir(mode=0o700)
    made = Machine(plane, tmp_path / "state", Means(await world.service_token()))
    assert await made.agent.once() == []
    return made


async def test_it_enrolls_once_and_comes_back_after_a_deletion(machine: Machine, world: World) -> None:
    """Decision 20: the registration of a service token that is deleted is followed by another, without a person."""
    first = machine.kept.registration_id
    await machine.restart()
    assert await machine.go_on() == []
    assert [it.registration_id for it in await world.live()] == [first]
    await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, first))
    await machine.go_on()
    assert machine.keeper.state.standing is Standing.NONE
    assert await machine.go_on() == []
    (again,) = await world.live()
    assert again.registration_id == machine.kept.registration_id != first
    assert not list(machine.folder.path.glob(f"{first}*"))


async def test_a_revoked_one_waits_until_it_is_restored(machine: Machine, world: World) -> None:
    """It makes no other registration meanwhile, whichever process looks."""
    registration_id = machine.kept.registration_id
    await world.registrations.RevokeRegistrations(world.batch(pb.RevokeRegistrationsRequest, registration_id))
    for restarted in (False, True):
        if restarted:
            await machine.restart()
        await machine.go_on(3)
        assert machine.keeper.state.standing is Standing.REVOKED
        assert machine.agent.current is None
    assert len(await world.live()) == 1
    await world.registrations.UnrevokeRegistrations(world.batch(pb.UnrevokeRegistrationsRequest, registration_id))
    assert await machine.go_on(2) == []
    assert machine.agent.current is machine.keeper
    # Deleted while it is revoked it is gone all the same.
    await world.registrations.RevokeRegistrations(world.batch(pb.RevokeRegistrationsRequest, registration_id))
    await machine.go_on()
    await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, registration_id))
    await machine.go_on(2)
    assert machine.kept.registration_id != registration_id


async def test_a_key_is_replaced_and_whatever_dies_it_converges(
    machine: Machine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 21: it dies before the call, after it, and before each of the files that follow."""

    class Died(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Died

    old = machine.kept
    rotated = 0
    for point in ("make_rotation", "swap", "note", "client"):
        await machine.advance(2 * DAY / SECOND)
        with monkeypatch.context() as patch:
            if point == "make_rotation":
                patch.setattr("guardhouse.agent.keeper.make_rotation", dies)
            elif point == "client":
                # The answer is lost: the key has been replaced, and nobody here knows.
                patch.setattr(Keeper, "_swapped", dies)
            else:
                patch.setattr(Folder, point, dies)
            try:
                await machine.agent.once()
            except Died:
                rotated += 1
        await machine.restart()
        assert await machine.go_on(2) == []
        (held,) = await world.live()
        assert held.registration_id == old.registration_id
        assert held.public_key == CURVE25519.public_key(machine.kept.private_key)
        assert machine.kept.new_private_key is None
        (again,) = machine.folder.registrations()
        assert again.private_key == machine.kept.private_key != old.private_key
        old = machine.kept
    assert rotated == 4


async def test_a_key_that_somebody_else_has_replaced_is_told(machine: Machine, world: World) -> None:
    async with aio.Client(replace(machine.orders.profile, key=machine.kept.token)) as thief:
        await rotate_aio(thief, world.organization_id, machine.kept.registration)
    await machine.restart()
    (problem,) = await machine.go_on()
    assert problem.reason == "KEY_FOREIGN"
    assert "somebody else has replaced it" in problem.message
    assert len(await world.live()) == 1


async def test_what_was_cut_short_goes_on_with_the_same_registration(
    plane: Plane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to Register is lost with the process: the next one is answered the same, after however long."""
    machine = Machine(plane, tmp_path, Means(await world.service_token()))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "keep", dies)
        await machine.agent.once()
    (made,) = await world.live()
    await plane.advance(3600)
    await machine.restart()
    assert await machine.go_on() == []
    assert machine.kept.registration_id == made.registration_id
    assert len(await world.live()) == 1
    # One that never arrived has too old a challenge by then, and is made anew.
    private_key, request = machine.kept.private_key, machine.kept.request
    await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, made.registration_id))
    machine.folder.forget(made.registration_id)
    machine.folder.intend("machine", private_key, request)
    await machine.restart()
    assert await machine.go_on() == []
    assert machine.kept.registration_id != made.registration_id


async def test_it_goes_on_while_the_control_plane_is_away(machine: Machine, plane: Plane) -> None:
    """Started without it as well, it stands by what it has kept."""
    await plane.stop("registry")
    (problem, *_) = await machine.go_on()
    assert problem.reason == "SERVICE_UNAVAILABLE"
    assert machine.agent.current is machine.keeper
    registration = machine.kept.registration
    await machine.restart()
    assert await machine.go_on()
    assert machine.agent.current is machine.keeper
    assert machine.kept.registration == registration
    await plane.start("registry")
    await machine.keeper.close()
    await machine.restart()
    assert await machine.go_on(2) == []


@pytest.mark.parametrize("hours", [-72, 72])
async def test_a_clock_that_jumps_changes_nothing(machine: Machine, plane: Plane, hours: int) -> None:
    """Only the agent's clock does: it replaces no key before its time, and none never."""

    class Set:
        """The clock of a machine that somebody has set."""

        def now(self) -> int:
            return plane.clock.now() + hours * 3600 * SECOND

        def steady(self) -> int:
            return plane.clock.steady()

    key = machine.kept.private_key
    due = machine.keeper.state.due[Task.ROTATE]
    machine.agent._clock = machine.keeper._clock = Set()
    assert await machine.go_on(2) == []
    assert machine.keeper.state.due[Task.ROTATE] == due
    await machine.agent.close()
    machine.agent = Agent(machine.orders, machine.folder, Set(), machine.means)
    assert await machine.go_on() == []
    if hours < 0:
        # Its key seemed to be of the future; from now on it has an age.
        assert machine.kept.private_key == key
        assert machine.kept.key_time <= Set().now()
        await machine.advance(2 * DAY / SECOND)
        assert await machine.go_on() == []
    assert machine.kept.private_key != key


async def test_a_machine_authenticates_before_anybody_asks(machine: Machine, world: World) -> None:
    """Decision 34; and at once when its session was revoked."""
    await world.policy("1h")
    assert await machine.go_on(2) == []
    registration_id = machine.kept.registration_id

    async def authenticated() -> int:
        request = session.GetSessionRequest(organization_id=world.organization_id, registration_id=registration_id)
        return int((await world.sessions.GetSession(request)).session.authenticate_time.ToMicroseconds())

    async def renewed(before: int) -> int:
        """Tells of an authentication behind this one as soon as session has heard of it."""
        for _ in range(100):
            if (now := await authenticated()) > before:
                return now
            await asyncio.sleep(0.05)
        raise AssertionError("it has not authenticated")

    first = await authenticated()
    expiry = first + 3600 * SECOND
    machine.plane.clock.stop()
    await machine.plane.advance((expiry - machine.plane.clock.now()) / SECOND - 1.5)
    assert await machine.go_on(1, 0.5) == []
    second = await renewed(first)
    assert second < expiry
    revoke = session.RevokeSessionsRequest(organization_id=world.organization_id, registration_ids=[registration_id])
    await world.sessions.RevokeSessions(revoke)
    for _ in range(50):
        # So far that session hears of everything before it is asked.
        assert await machine.go_on(1, 11) == []
        if await authenticated() > second:
            break
    assert await authenticated() > second
    assert not machine.keeper.asked


async def test_a_token_that_is_refused_is_tried_again_slowly(plane: Plane, world: World, tmp_path: Path) -> None:
    """An administrator may put it right, with the same token."""
    good = (await world.service_token()).service_token
    bad = Credential(service_token=ServiceTokenCredential(client_id=good.client_id, client_secret="0" * 64))
    machine = Machine(plane, tmp_path, Means(bad))
    (problem,) = await machine.agent.once()
    assert problem.reason == "SERVICE_TOKEN_INVALID"
    machine.keeper._means = Means(Credential(service_token=good))
    (problem,) = await machine.go_on(3, 60)
    assert problem.reason == "SERVICE_TOKEN_INVALID"
    assert await machine.go_on(1, 240) == []


class Person:
    """Somebody who signs in, or does not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked = 0
        self.signs_in = True

    async def enroll(self, _info: pb.GetEnrollmentInfoResponse) -> Credential:
        self.asked += 1
        if not self.signs_in:
            raise NobodySignedIn("nobody has signed in within 300 s")
        return self.world.id_token("alice")

    async def again(self, _begun: session.StartReauthenticationResponse, device_flow: bool) -> Credential:
        return await self.enroll(pb.GetEnrollmentInfoResponse(device_flow=device_flow))


async def test_a_person_is_asked_and_never_enrolled_again_unasked(plane: Plane, world: World, tmp_path: Path) -> None:
    person = Person(world)
    machine = Machine(plane, tmp_path, Means(person=person))
    assert await machine.agent.once() == []
    await world.policy("1h")
    assert await machine.go_on() == []
    person.signs_in = False
    await plane.advance(3700)
    (problem,) = await machine.go_on(5)
    # Once to enroll, and once because the session was too old, however long that goes on.
    assert (problem.reason, person.asked) == ("NOBODY_SIGNED_IN", 2)
    assert machine.keeper.asked
    assert machine.keeper.waits_for_person
    # They sign in elsewhere, and somebody tells the agent.
    machine.agent.sign_in("", world.id_token("alice").id_token)
    assert await machine.go_on(2) == []
    assert not machine.keeper.asked
    registration_id = machine.kept.registration_id
    await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, registration_id))
    await machine.go_on(3, 600)
    assert machine.keeper.state.standing is Standing.NONE
    assert not machine.keeper.state.due
    assert not await world.live()
    machine.agent.sign_in("", world.id_token("alice").id_token)
    assert await machine.go_on() == []
    assert len(await world.live()) == 1
    assert person.asked == 2


async def test_a_person_whose_token_is_too_old_is_told(plane: Plane, world: World, tmp_path: Path) -> None:
    machine = Machine(plane, tmp_path, Means())
    old = world.id_token("alice", iat=plane.clock.now() // SECOND - 900).id_token
    machine.agent.sign_in("", old)
    (problem,) = await machine.agent.once()
    assert problem.reason == "ID_TOKEN_INVALID"
    assert not machine.keeper.state.due
    assert machine.folder.intent("machine") is None
    await machine.restart()
    assert not await machine.go_on()


async def test_it_leaves_and_keeps_nothing(machine: Machine, world: World) -> None:
    await machine.agent.leave()
    assert not await world.live()
    assert sorted(it.name for it in machine.folder.path.iterdir()) == ["status.json"]


async def test_who_is_gone_already_leaves_all_the_same(machine: Machine, world: World) -> None:
    registration_id = machine.kept.registration_id
    await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, registration_id))
    await machine.agent.leave()
    assert not list(machine.folder.path.glob("reg_*"))


async def test_what_the_profile_says_now_is_heard_of(machine: Machine, world: World) -> None:
    profiles = world.plane.stub(registry_pb2_grpc.DeviceProfileServiceStub)
    changed = pb.DeviceProfile(
        device_profile_id=machine.kept.configuration.device_profile_id,
        settings=pb.DeviceProfileSettings(include=pb.Routes(routes=[pb.Route(address="100.96.0.0/12")])),
    )
    request = pb.UpdateDeviceProfileRequest(organization_id=world.organization_id, device_profile=changed)
    request.update_mask.paths.append("settings.include")
    await profiles.UpdateDeviceProfile(request)
    assert await machine.go_on(2) == []
    assert machine.kept.configuration.settings.WhichOneof("split_tunnel") == "include"
    (kept,) = machine.folder.registrations()
    assert kept.configuration == machine.kept.configuration
