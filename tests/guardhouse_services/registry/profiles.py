"""Device profiles as an administrator writes them."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.ids import default_profile_id
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.registry.servicer import RegistryServicer
from tests.guardhouse_services.registry.world import World

ADA = 'identity.email == "ada@example.com"'


class Profiles:
    """Calls of DeviceProfileService by an administrator."""

    def __init__(self, world: World, servicer: RegistryServicer) -> None:
        self.world = world
        self.servicer = servicer
        self.default_id = default_profile_id(world.organization)

    async def create(self, precedence: int = 10, match: str = ADA, **fields: Any) -> pb.DeviceProfile:
        settings = fields.pop("settings", None)
        call, dry_run = fields.pop("call", None) or self.world.call(), fields.pop("validate_only", False)
        profile = pb.DeviceProfile(
            **{"name": "Staff", "precedence": precedence, "match": match, "settings": settings} | fields
        )
        request = pb.CreateDeviceProfileRequest(
            organization_id=self.world.organization, device_profile=profile, validate_only=dry_run
        )
        return (await self.servicer.CreateDeviceProfile(request, call)).device_profile

    async def get(self, device_profile_id: str) -> pb.DeviceProfile:
        request = pb.GetDeviceProfileRequest(
            organization_id=self.world.organization, device_profile_id=device_profile_id
        )
        return (await self.servicer.GetDeviceProfile(request, self.world.call())).device_profile

    async def update(
        self, profile: pb.DeviceProfile, *paths: str, validate_only: bool = False, request_id: str = ""
    ) -> pb.DeviceProfile:
        request = pb.UpdateDeviceProfileRequest(
            organization_id=self.world.organization,
            device_profile=profile,
            update_mask=FieldMask(paths=paths),
            validate_only=validate_only,
        )
        call = self.world.call(request_id, str(request))
        return (await self.servicer.UpdateDeviceProfile(request, call)).device_profile

    async def set(self, device_profile_id: str, **settings: Any) -> pb.DeviceProfile:
        profile = pb.DeviceProfile(device_profile_id=device_profile_id, settings=pb.DeviceProfileSettings(**settings))
        return await self.update(profile, *(f"settings.{name}" for name in settings))

    async def delete(self, device_profile_id: str, etag: str = "", **more: Any) -> pb.DeleteDeviceProfileResponse:
        call = more.pop("call", None) or self.world.call()
        request = pb.DeleteDeviceProfileRequest(
            organization_id=self.world.organization, device_profile_id=device_profile_id, etag=etag, **more
        )
        return await self.servicer.DeleteDeviceProfile(request, call)

    async def list(self, size: int = 1000) -> list[list[pb.DeviceProfile]]:
        request = pb.ListDeviceProfilesRequest(organization_id=self.world.organization, page_size=size)
        pages = []
        while True:
            page = await self.servicer.ListDeviceProfiles(request, self.world.call())
            pages.append(list(page.device_profiles))
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return pages

    async def match(self, **subject: Any) -> pb.MatchDeviceProfileResponse:
        request = pb.MatchDeviceProfileRequest(
            organization_id=self.world.organization, test_subject=pb.ProfileSubject(**subject)
        )
        return await self.servicer.MatchDeviceProfile(request, self.world.call())
