"""SCIM (RFC 7643): what an identity provider provisions, and what becomes of the users who are provisioned by it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class UpdateBehavior(IntEnum):
    """What a change of a resource does to the profile of the user whom it stands for (domain.md, section 4.3)."""

    AUTOMATIC = 1
    REAUTH = 2
    NO_ACTION = 3


class MatchAttribute(IntEnum):
    """The attribute of a SCIM user that is compared."""

    EXTERNAL_ID = 1
    USER_NAME = 2


class MatchClaim(IntEnum):
    """What of a user it is compared with."""

    SUBJECT = 1
    EMAIL = 2


@dataclass(frozen=True, slots=True)
class ScimSettings:
    """How a provider provisions (decision 8)."""

    enabled: bool = False
    user_deprovision: bool = False
    """Whoever is deactivated or deleted there has the sessions ended."""
    seat_deprovision: bool = False
    """And the seat freed. It needs `user_deprovision`."""
    identity_update_behavior: UpdateBehavior = UpdateBehavior.NO_ACTION
    match_attribute: MatchAttribute = MatchAttribute.EXTERNAL_ID
    match_claim: MatchClaim = MatchClaim.SUBJECT


class Kind(IntEnum):
    """The resource types."""

    USER = 1
    GROUP = 2


@dataclass(frozen=True, slots=True)
class Member:
    """A user or group of a group, by the id of its resource."""

    resource_id: str
    display: str | None = None
    """What the client calls it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A SCIM user or group. Its id is ours; the client's externalId is another namespace (invariant I-32)."""

    kind: Kind
    resource_id: str
    name: str
    """userName or displayName, as it was sent."""
    name_key: str
    """As it is compared; of users unique within the provider."""
    external_id: str | None
    active: bool
    document: Mapping[str, Any]
    """Everything that the client said, as SCIM has it, without the members of a group."""
    version: int = 1
    create_time: int = 0
    update_time: int = 0
    user_id: str = ""
    """The user whom a SCIM user stands for. Empty: nobody who has authenticated matches."""
    members: tuple[Member, ...] = field(default=(), compare=False)
    """Of a group, those that were asked for; of a user, its groups."""


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a request came from: a provider's SCIM client."""

    organization_id: str
    identity_provider_id: str

    @property
    def name(self) -> str:
        """For the audit log, and as a source of mass actions."""
        return f"scim:{self.identity_provider_id}"


@dataclass(frozen=True, slots=True)
class ScimEvent:
    """What became of a request, without what was sent."""

    scim_event_id: str
    identity_provider_id: str
    event_time: int
    method: str
    resource_type: str
    resource_id: str
    external_id: str
    user_id: str
    status: int
    error: str = ""
    held: bool = False


def email_of(document: Mapping[str, Any]) -> str:
    """The primary address of a SCIM user, else its first; empty when it has none."""
    emails = [email for email in document.get("emails") or () if email.get("value")]
    primary = next((email for email in emails if email.get("primary")), emails[0] if emails else None)
    return str(primary["value"]) if primary else ""


def display_name_of(document: Mapping[str, Any]) -> str:
    """How a SCIM user is called; empty when nothing says so."""
    name = document.get("name") or {}
    parts = [name.get("givenName"), name.get("familyName")]
    return str(document.get("displayName") or name.get("formatted") or " ".join(part for part in parts if part))
