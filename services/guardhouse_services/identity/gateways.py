"""What a gateway sees of the feed: what it decides by, and nothing else. What is not named here does not go out."""

from guardhouse.identity.v1 import identity_pb2 as pb


def show(event: pb.Event, organization_id: str) -> pb.Event | None:
    """The event as a gateway of the organization sees it; None is not at all. No key, and no other organization."""
    match event.WhichOneof("kind"):
        case "organization" if event.organization.organization_id == organization_id:
            action = event.organization.default_action
            return pb.Event(organization=pb.Organization(organization_id=organization_id, default_action=action))
        case "organization_deleted" if event.organization_deleted == organization_id:
            return event
        case "identity_provider":
            of = event.identity_provider
            shown = pb.IdentityProvider(identity_provider_id=of.identity_provider_id, issuer=of.issuer)
            return pb.Event(identity_provider=shown)
        case "user":
            record, user = event.user, event.user.user
            return pb.Event(
                user=pb.UserRecord(
                    user=pb.User(
                        user_id=user.user_id,
                        email=user.email,
                        display_name=user.display_name,
                        groups=user.groups,
                        oidc_claims=user.oidc_claims,
                    ),
                    removed_revision=record.removed_revision,
                    revoked_revision=record.revoked_revision,
                )
            )
        case "identity_provider_deleted" | "authentication" | "authentication_deleted":
            return event
    return None
