"""What everybody knows of organizations who follows identity's feed."""

from guardhouse.identity.v1 import identity_pb2 as identity


class OrganizationState:
    """One organization's part of identity's feed without its people; an empty id is the installation's."""

    def __init__(self, organization_id: str) -> None:
        self.organization_id = organization_id
        self.organizations: dict[str, identity.Organization] = {}
        self.deleted: set[str] = set()
        """The ids of organizations that are gone; whoever has heard of one knows nothing of it any more."""
        self.identity_providers: dict[str, identity.IdentityProvider] = {}

    def apply(self, event: identity.Event) -> None:
        match event.WhichOneof("kind"):
            case "organization":
                self.organizations[event.organization.organization_id] = event.organization
            case "organization_deleted":
                self.organizations.pop(event.organization_deleted, None)
                self.deleted.add(event.organization_deleted)
            case "identity_provider":
                self.identity_providers[event.identity_provider.identity_provider_id] = event.identity_provider
            case "identity_provider_deleted":
                self.identity_providers.pop(event.identity_provider_deleted, None)
