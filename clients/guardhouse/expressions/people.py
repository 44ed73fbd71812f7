"""What expressions ask about people."""

from guardhouse.decisions import Profile
from guardhouse.expressions.traffic import Traffic, read_traffic


def identity_facts(profile: Profile | None) -> Traffic:
    """What `identity` asks about. What a provider calls a group may be its name, its id or its address."""
    if profile is None:
        return {}
    return read_traffic(
        {
            "identity.email": profile.email or None,
            "identity.name": profile.display_name or None,
            "identity.groups.name": profile.groups,
            "identity.groups.id": profile.groups,
            "identity.groups.email": [group for group in profile.groups if "@" in group],
            "identity.oidc_claims": profile.claims,
        }
    )
