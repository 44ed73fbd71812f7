"""Identity's own database, a module for each resource.

Functions take the transaction first, and take and return domain values. Every query names the organization.
"""

from guardhouse_services.breaker.store import HeldActions
from guardhouse_services.identity.store import (
    api_keys,
    changes,
    enrollment_policies,
    identity_providers,
    intents,
    organizations,
    registrations,
    removals,
    rule_groups,
    scim,
    seats,
    service_tokens,
    users,
)
from guardhouse_services.identity.store.tables import automatic_action, held_action, held_user, metadata

held_actions = HeldActions(automatic_action, held_action, held_user, "user_id", receipt="removal_id")

__all__ = [
    "api_keys",
    "changes",
    "enrollment_policies",
    "held_actions",
    "identity_providers",
    "intents",
    "metadata",
    "organizations",
    "registrations",
    "removals",
    "rule_groups",
    "scim",
    "seats",
    "service_tokens",
    "users",
]
