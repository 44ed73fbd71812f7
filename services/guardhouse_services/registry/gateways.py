"""What a gateway sees of the feed: what it decides by, and nothing else. What is not named here does not go out.

Public keys are among it: a WireGuard gateway admits whoever proves to hold one. They are public, whatever their kind,
and let nobody in; what a caller is recognised by at our own services, the hash of its token, is not shown.
"""

from guardhouse.registry.v1 import registry_pb2 as pb

FIELDS = (
    *("registration_id", "device_id", "user_id", "service_token_id", "state"),
    *("key_type", "public_key", "ipv4", "ipv6", "device_profile_id", "current"),
)
PROFILE_FIELDS = ("device_profile_id", "name", "default", "settings")


def show(event: pb.Event, _organization_id: str) -> pb.Event | None:
    """The event as a gateway sees it; None is not at all. No hash of a token."""
    match event.WhichOneof("kind"):
        case "registration":
            record, of = event.registration, event.registration.registration
            # Of the two that may hold it, only the one that does is set.
            fields = {name: value for name in FIELDS if (value := getattr(of, name))}
            return pb.Event(
                registration=pb.RegistrationRecord(
                    registration=pb.Registration(**fields),
                    authenticate_time=record.authenticate_time,
                    authorize_revision=record.authorize_revision,
                    posture=record.posture if record.HasField("posture") else None,
                )
            )
        case "device_profile":
            # Whom it matches is nobody's business but the registry's: a match names people.
            of_profile = event.device_profile
            shown = {name: getattr(of_profile, name) for name in PROFILE_FIELDS}
            return pb.Event(device_profile=pb.DeviceProfile(**shown))
        case "registration_deleted" | "device_profile_deleted":
            return event
    return None
