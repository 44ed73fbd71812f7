"""Users, and what becomes of them when they are removed."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self

from guardhouse.errors import UserBlocked
from guardhouse_services.identity.domain.credentials import NOBODY, Profile


class SeatEvent(IntEnum):
    """What kind of event counts for a seat (decision 2)."""

    UNKNOWN = 0
    """The seat was taken before this was noted."""
    ACCESS = 1
    """A log in to an application."""
    GATEWAY = 2
    """The enrollment of a device."""


@dataclass(frozen=True, slots=True)
class User:
    """A person of an organization: (issuer, subject) there (decision 1).

    One who has only begun to enroll has no `authenticate_time` yet and is shown to nobody. `seat_time` is when the seat
    that is held was taken; None: none is held for good. The revisions are those of the newest such event; 0 is never.
    """

    user_id: str
    issuer: str
    subject: str
    profile: Profile
    create_time: int | None = None
    authenticate_time: int | None = None
    seat_time: int | None = None
    removed_revision: int = 0
    revoked_revision: int = 0
    registrations_revoked_revision: int = 0
    removal_id: str = ""
    """The newest removal."""
    seat_event: SeatEvent = SeatEvent.UNKNOWN
    seat_event_id: str = ""
    """Of the event that took the seat: a registration_id, or the request_id of a log in."""
    access_seat: bool = False
    """Whether there was a log in to an application since the seat was taken."""
    gateway_seat: bool = False
    """Whether a device was enrolled since the seat was taken."""
    seen_time: int | None = None
    """When a device was last heard of, as far as the registry has reported."""
    block_time: int | None = None
    """Since when the user may not authenticate; None: the policies decide."""
    groups_time: int | None = None
    """When SCIM said last which groups the user is in; None: it never has."""

    def authenticated(self, profile: Profile, at: int) -> Self:
        """The user after an authentication: the newest one says who somebody is (decision 9).

        Of the groups it does not if SCIM has said since which they are: an enrollment takes a while, and an ID token is
        good for minutes.
        """
        if self.authenticate_time is not None and at < self.authenticate_time:
            return self
        if self.groups_time is not None and at < self.groups_time:
            profile = replace(profile, groups=self.profile.groups)
        first = at if self.create_time is None else self.create_time
        return replace(self, profile=profile, create_time=first, authenticate_time=at)

    def provisioned(self, groups: tuple[str, ...], at: int) -> Self:
        """The user in the groups that SCIM says."""
        return replace(self, profile=replace(self.profile, groups=groups), groups_time=at)

    def check_not_blocked(self) -> None:
        """Raises UserBlocked."""
        if self.block_time is not None:
            raise UserBlocked("the user was off-boarded; an administrator can reinstate the user", user_id=self.user_id)

    def erased(self) -> Self:
        """The user without anything by which to tell who it was. What was blocked cannot be recognised any more."""
        return replace(self, issuer="", subject=self.user_id, profile=NOBODY, block_time=None)

    @property
    def is_erased(self) -> bool:
        return not self.issuer

    def seated(self, at: int, event: SeatEvent, event_id: str) -> Self:
        """The user with a seat for good; since when and by what, if it is new."""
        used = replace(
            self,
            access_seat=self.access_seat or event is SeatEvent.ACCESS,
            gateway_seat=self.gateway_seat or event is SeatEvent.GATEWAY,
        )
        if self.seat_time is not None:
            return used
        return replace(used, seat_time=at, seat_event=event, seat_event_id=event_id)

    def removed(self, revision: int, removal_id: str) -> Self:
        """The user without a seat, for whom whatever was authorized at or before the revision is over (decision 5)."""
        return replace(
            self,
            seat_time=None,
            seat_event=SeatEvent.UNKNOWN,
            seat_event_id="",
            access_seat=False,
            gateway_seat=False,
            removed_revision=revision,
            removal_id=removal_id,
        )

    @property
    def active_time(self) -> int:
        """The newest sign that the seat is used: an authentication, or a device that was heard of (decision 6)."""
        return max(self.authenticate_time or 0, self.seen_time or 0)


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal of users, as far as it has come (decision 5)."""

    removal_id: str
    create_time: int
    users: int
    seats_freed: int
    registrations: int = 0
    registrations_deleted: int = 0
    addresses_released: int = 0
    undecided: int = 0
    """Enrollments that were under way, of which it is not known yet whether a registration came of them."""

    @property
    def done(self) -> bool:
        return not self.undecided and self.registrations == self.registrations_deleted == self.addresses_released
