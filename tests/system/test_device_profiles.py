"""Device profiles in a running plane: from the sign-in, the heartbeat and the edit to the device that is told."""

import asyncio
from typing import Any

import pytest

from guardhouse.errors import LeaveNotAllowed
from guardhouse.ids import default_profile_id
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.registry.v1 import registry_pb2_grpc as rpc
from tests.plane import Plane
from tests.system.people import World

SECONDS = 20.0


class Told:
    """A device, by what it is told with its own token."""

    def __init__(self, world: World, made: pb.RegisterResponse) -> None:
        self._stub: Any = world.plane.stub(rpc.RegistrationServiceStub, key=made.token)
        self.made = made
        self.about: dict[str, Any] = {
            "organization_id": world.organization_id,
            "registration_id": made.registration.registration_id,
        }

    async def configuration(self) -> pb.DeviceConfiguration:
        answer = await self._stub.GetRegistration(pb.GetRegistrationRequest(**self.about))
        assert answer.registration.device_profile_id == answer.configuration.device_profile_id
        found: pb.DeviceConfiguration = answer.configuration
        return found

    async def beat(self, **said: Any) -> pb.HeartbeatResponse:
        answer: pb.HeartbeatResponse = await self._stub.Heartbeat(pb.HeartbeatRequest(**self.about, **said))
        return answer

    async def hears_of(self, device_profile_id: str) -> pb.DeviceConfiguration:
        """Beats until it is told of this profile, and asks what that says."""
        async with asyncio.timeout(SECONDS):
            while (await self.beat()).device_profile_id != device_profile_id:  # noqa: ASYNC110  # a device asks
                await asyncio.sleep(0.05)
        told = await self.configuration()
        assert told.etag == (await self.beat()).configuration_etag
        return told

    async def leave(self) -> None:
        await self._stub.Leave(pb.LeaveRequest(**self.about, request_id="leave"))


async def create(world: World, precedence: int, match: str, **settings: Any) -> str:
    request = pb.CreateDeviceProfileRequest(
        organization_id=world.organization_id,
        device_profile=pb.DeviceProfile(
            name="A profile", precedence=precedence, match=match, settings=pb.DeviceProfileSettings(**settings)
        ),
    )
    made = await world.plane.stub(rpc.DeviceProfileServiceStub).CreateDeviceProfile(request)
    return str(made.device_profile.device_profile_id)


async def test_a_device_is_told_of_another_profile_whatever_it_follows_from(world: World, plane: Plane) -> None:
    """domain 2: another sign-in of its user, its own heartbeat, and an edit; it asks with its own token only."""
    default_id = default_profile_id(world.organization_id)
    alice = Told(world, await world.enroll("alice", "laptop"))
    assert alice.made.configuration == await alice.configuration()
    assert alice.made.configuration.device_profile_id == default_id
    staff = await create(world, 20, 'any(identity.groups.name[*] in {"staff"})', switch_locked=True)
    office = await create(world, 10, 'network == "office"', allow_updates=True)
    # Who signs in anew, on another machine, is in a group by now.
    request = await world.request(world.id_token("alice", groups=["staff"]), "phone")
    phone = Told(world, await world.enrollment.Register(request))
    assert phone.made.configuration.device_profile_id == staff
    assert (await alice.hears_of(staff)).settings.switch_locked
    await alice.beat(network="office")
    await plane.nodes["registry"].close[0]()
    told = await alice.hears_of(office)
    assert (told.settings.switch_locked, told.settings.allow_updates) == (False, True)
    await plane.stub(rpc.DeviceProfileServiceStub).DeleteDeviceProfile(
        pb.DeleteDeviceProfileRequest(organization_id=world.organization_id, device_profile_id=office)
    )
    assert (await alice.hears_of(staff)).settings.switch_locked


async def test_a_device_that_may_not_leave_stays_until_somebody_deletes_it(world: World, plane: Plane) -> None:
    """Decision 18: `allowed_to_leave`, and never a managed one."""
    await create(world, 10, 'identity.email == "alice@example.com"', allowed_to_leave=False)
    kept = Told(world, await world.enroll("alice"))
    request = await world.request(world.id_token("bob"), "managed")
    request.managed = True
    managed = Told(world, await world.enrollment.Register(request))
    free = Told(world, await world.enroll("carol"))
    for device in (kept, managed):
        with pytest.raises(LeaveNotAllowed, match="an administrator can delete the registration"):
            await device.leave()
    await free.leave()
    ids = [it.made.registration.registration_id for it in (kept, managed)]
    assert sorted(it.registration_id for it in await world.live()) == sorted(ids)
    answer = await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, *ids))
    assert [it.WhichOneof("outcome") for it in answer.results] == ["registration"] * 2
