"""Users, and what becomes of them when they are removed."""

from dataclasses import dataclass, replace
from typing import Self

from guardhouse_services.identity.domain.credentials import Profile


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

    def authenticated(self, profile: Profile, at: int) -> Self:
        """The user after an authentication: the newest one says who somebody is (decision 9)."""
        if self.authenticate_time is not None and at < self.authenticate_time:
            return self
        first = at if self.create_time is None else self.create_time
        return replace(self, profile=profile, create_time=first, authenticate_time=at)

    def seated(self, at: int) -> Self:
        """The user with a seat for good; since when, if it is new."""
        return replace(self, seat_time=at) if self.seat_time is None else self


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
