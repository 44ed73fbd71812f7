"""What the registry knows, and the rules that need nothing else."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import Generic, TypeVar

from guardhouse.decisions import Profile
from guardhouse.errors import (
    DeviceHeldByAnotherRegistration,
    DeviceHeldByAnotherUser,
    EnrollmentAborted,
    GuardhouseError,
    MultiUserNotAllowed,
    UserRemoved,
)
from guardhouse.os_sessions import Desk

T = TypeVar("T")

SECOND = 1_000_000
DEADLINE = 30 * SECOND
"""How long an enrollment may stay undecided."""
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
"""The resolution of the times at which devices were heard of."""
KEEP_SESSIONS = 400 * 24 * HOUR
"""How long it can be asked who had a shared device."""
WINDOWS = 1
"""The number of the contract's PLATFORM_WINDOWS."""
LEAST_WINDOWS_VERSION = (2025, 2, 460, 1)
"""The first client for Windows that several people can share."""
KEEP_ENDED = 25 * 3600 * SECOND
"""How long an aborted or deleted registration is remembered: longer than a request may be repeated."""


MAX_GATEWAYS = 1000
"""How many of an organization are known at a time."""
LIVE_FOR = 30 * SECOND
"""How long after it was last heard of a gateway counts as live: it says so every second, which is written every ten."""

FORMER_INSTANCES = 8
"""How many processes that spoke under a gateway's name are remembered."""

NOBODY = Profile("", "", ())
"""Somebody of whom nothing is known."""

Position = tuple[str, int]
"""Epoch and revision."""
NOWHERE: Position = ("", 0)


class State(StrEnum):
    """Of a registration. PENDING is an enrollment under way; the last two are remembered for a while, never listed."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"
    ABORTED = "ABORTED"
    DELETED = "DELETED"


LIVE = (State.PENDING, State.ACTIVE, State.REVOKED)
"""States that hold their key."""
LISTED = (State.ACTIVE, State.REVOKED)
"""States that callers see."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a device says about itself."""

    hardware_id: str
    display_name: str
    platform: int
    os_version: str
    client_version: str
    serial_number: str
    model: str
    manufacturer: str
    mac_address: str = ""
    os_version_extra: str = ""


@dataclass(frozen=True, slots=True)
class LastSeen:
    """Of a device's registrations the one that was heard of or made last, and whose it is. Empty: it has none."""

    registration_id: str = ""
    user_id: str = ""
    email: str = ""
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """What a device runs, as profiles match it and lists show it."""

    platform: int
    os_version: str
    display_name: str
    client_version: str


@dataclass(frozen=True, slots=True)
class Device:
    """A machine. `create_time` is None until an enrollment on it succeeds; such a device is never listed."""

    organization_id: str
    device_id: str
    claims: Claims
    create_time: int | None
    active_registrations: int = 0
    enroll_time: int | None = None
    """The newest enrollment. None where a release made it that did not note this."""
    seen_time: int | None = None
    """When it was last heard of, in whole minutes."""
    update_time: int | None = None
    """When what it claims or its tags changed. None where a release did that which did not note it."""
    tags: Mapping[str, str] = field(default_factory=dict)
    last_seen: LastSeen = field(default=LastSeen(), compare=False)
    place: "Cursor | None" = field(default=None, compare=False)
    """Where it stands in the list that shows it."""

    @property
    def change_time(self) -> int:
        return max(self.update_time or 0, self.enroll_time or 0, self.create_time or 0)

    @property
    def activity(self) -> int:
        """When it was last heard of or enrolled, for lists."""
        return self.seen_time or self.enroll_time or self.create_time or 0


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a registration is: a user or a service token; the other is empty."""

    user_id: str = ""
    service_token_id: str = ""

    @property
    def actor(self) -> str:
        """As records name who enrolls."""
        return f"user:{self.user_id}" if self.user_id else f"service_token:{self.service_token_id}"


@dataclass(frozen=True, slots=True)
class Lease:
    """A pair of addresses, as ipam reserved it."""

    lease_id: str = ""
    ipv4: str = ""
    ipv6: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What identity answered to an enrollment."""

    holder: Holder
    authenticate_time: int
    authorize_revision: int
    identity_token: str
    person: Profile | None = None
    """None of a machine."""
    expire_after: int | None = None
    """How long the registration may be silent. None: for ever."""


@dataclass(frozen=True, slots=True)
class PostureChecks:
    """The ids of the posture checks that a device passed and failed: each in order, once, and in one of the two."""

    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Posture:
    """What a device's heartbeats said of its posture checks, and since when they say so."""

    checks: PostureChecks
    change_time: int
    time: int = field(compare=False)
    """When it was said for the last time, to the microsecond: of two heartbeats the newer one counts."""

    @property
    def report_time(self) -> int:
        """What followers are told of its time. They are told again when it changes, which is once an hour; the age of
        the posture by it is never less than it is, and more by less than an hour (decision 32a)."""
        return self.time - (self.time - self.change_time) % HOUR

    def after(self, before: "Posture | None") -> "Posture":
        """What is so when this is said after that: where both say the same, it is so since then."""
        if before is None or before.checks != self.checks:
            return self
        return replace(self, change_time=before.change_time)


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration, or the intent of one. Times are microseconds since the Unix epoch."""

    organization_id: str
    registration_id: str
    device_id: str
    state: State
    key_type: int
    public_key: bytes
    request_id: str
    fingerprint: bytes
    deadline: int
    holder: Holder = Holder()
    lease: Lease = Lease()
    authenticate_time: int = 0
    authorize_revision: int = 0
    identity_token: str = ""
    token_hash: bytes = b""
    create_time: int | None = None
    revoke_time: int | None = None
    seen_time: int | None = field(default=None, compare=False)
    """When its device was last heard of, in whole minutes. No change of the registration itself."""
    update_time: int | None = field(default=None, compare=False)
    """When its state or its key changed. None where a release did that which did not note it."""
    posture: Posture | None = None
    """None where no heartbeat said it."""
    expire_after: int | None = None
    """How long it may be silent. None: for ever (decision 15)."""
    device_profile_id: str = ""
    """What it says of an intent means nothing."""
    device_profile_time: int | None = None
    """When it got that profile. None: when it became active."""
    network: str = ""
    """The managed network that its device is in, as that says."""
    managed: bool = False
    """Whether an administrator's file enrolled it, as its device said. Such a one cannot leave (decision 18)."""
    os_user: str | None = None
    """The account of a shared device that it is for; empty is the login screen. None: outside multi-user mode."""
    is_current: bool = field(default=False, compare=False)
    """Whether it is the current one of a shared device (decision 19)."""
    user_email: str = field(default="", compare=False)
    user_display_name: str = field(default="", compare=False)
    """Of the user, as identity knows them. No change of the registration itself."""
    device_display_name: str = field(default="", compare=False)
    device_client_version: str = field(default="", compare=False)
    """Of the device, where they are asked for."""

    @property
    def change_time(self) -> int:
        return max(self.update_time or 0, self.revoke_time or 0, self.create_time or 0)

    @property
    def activity(self) -> int:
        """When it was last heard of or made, for lists."""
        return self.seen_time or self.create_time or 0

    @property
    def expire_time(self) -> int | None:
        """When it has been silent for too long, unless it is heard of until then."""
        return None if self.expire_after is None else self.activity + self.expire_after

    def place(self, order: "Order") -> "Cursor":
        """Where it stands in a list."""
        values: dict[Order, int | str] = {
            Order.CREATE: self.create_time or 0,
            Order.SEEN: self.activity,
            Order.ID: self.registration_id,
            Order.USER_EMAIL: self.user_email,
            Order.USER_NAME: self.user_display_name,
        }
        return Cursor(values[order], self.registration_id)


@dataclass(frozen=True, slots=True)
class OsSession:
    """Who has a shared device, and which registration is current, since when (decision 19). The last one is open."""

    organization_id: str
    device_id: str
    begin_time: int
    desk: Desk
    sequence: int = 0
    """Of the newest event that the device has reported."""
    registration_id: str = ""
    holder: Holder = Holder()
    end_time: int | None = None

    @property
    def asks_to_register(self) -> bool:
        return not self.desk.at_login_screen and not self.registration_id


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a device said at a time, which is a whole minute. An empty version is unchanged; so is None."""

    organization_id: str
    registration_id: str
    time: int
    os_version: str = ""
    client_version: str = ""
    posture: Posture | None = None
    network: str | None = None
    """The managed network that its device is in. Empty: none."""

    def after(self, before: "Heartbeat") -> "Heartbeat":
        """The two in one: what this one does not say is as it was before."""
        versions = {name: getattr(self, name) or getattr(before, name) for name in ("os_version", "client_version")}
        posture = before.posture if self.posture is None else self.posture.after(before.posture)
        network = before.network if self.network is None else self.network
        return replace(self, posture=posture, network=network, **versions)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway, and how far it said it has come."""

    organization_id: str
    name: str
    api_key_id: str
    applied: Position
    seen_time: int
    instance: str = ""
    """The process that spoke last, where it tells itself from others."""
    former: tuple[str, ...] = ()
    """Who spoke before that under the same name, the newest first."""
    shared_time: int = 0
    """When one spoke again after another had. 0: never."""

    def says_nothing_new(self, before: "Gateway", within: int) -> bool:
        """Whether what it said such a short time ago still stands."""
        return replace(before, seen_time=self.seen_time) == self and self.seen_time - before.seen_time < within

    def behind(self, before: "Gateway") -> "Gateway":
        """With what is known of who spoke before. A process that was replaced does not speak again: who does shares the
        name with a second one that is alive."""
        if "" in (self.instance, before.instance) or self.instance == before.instance:
            return replace(self, former=before.former, shared_time=before.shared_time)
        former = (before.instance, *(it for it in before.former if it not in (self.instance, before.instance)))
        shared_time = self.seen_time if self.instance in before.former else before.shared_time
        return replace(self, former=former[:FORMER_INSTANCES], shared_time=shared_time)

    def is_shared(self, now: int) -> bool:
        """Whether several that live have its name."""
        return now - self.shared_time <= LIVE_FOR

    def of(self, epoch: str) -> "Gateway":
        """What it has applied of one history: nothing, if it speaks of another."""
        return self if self.applied[0] == epoch else replace(self, applied=NOWHERE)

    def lag(self, head: Position) -> int:
        """How many changes it is behind."""
        epoch, revision = self.applied
        return max(0, head[1] - revision) if epoch == head[0] else head[1]

    def is_live(self, now: int) -> bool:
        return now - self.seen_time <= LIVE_FOR


def count_users(registrations: Iterable[Registration]) -> int:
    """How many users these are of: each has a seat, whatever the number of registrations (decision 2)."""
    return len({it.holder.user_id for it in registrations} - {""})


class Order(Enum):
    """What a list goes by. Rows that are alike in it go by their ids; text goes by its bytes."""

    CREATE = auto()
    SEEN = auto()
    ID = auto()
    NAME = auto()
    VERSION = auto()
    ACTIVE = auto()
    USER_EMAIL = auto()
    USER_NAME = auto()


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of the page before: what the list is ordered by, and the id."""

    value: int | str
    row_id: str


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """The rows of a page. With an `end` they do not fill it, and yet are not the last: the list goes on behind that."""

    rows: Sequence[T]
    end: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """A page of a list: its order, where it goes on, how many rows, and of which activity. None is unbounded."""

    limit: int
    order: Order = Order.CREATE
    descending: bool = False
    after: Cursor | None = None
    seen_after: int | None = None
    seen_before: int | None = None

    @property
    def skips(self) -> bool:
        """Whether it leaves rows out that lie between others in its order."""
        return self.order is not Order.SEEN and (self.seen_after is not None or self.seen_before is not None)


@dataclass(frozen=True, slots=True)
class RegistrationFilter:
    """Which registrations a list shows; what is empty is not asked for."""

    states: Sequence[State]
    user_id: str = ""
    service_token_id: str = ""
    device_id: str = ""
    device_profile_id: str = ""
    ids: Sequence[str] = ()
    user_ids: Sequence[str] = ()
    search: str = ""
    """Is in an address, or in the device's display name, hardware id, serial number or MAC address."""


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Which devices a list shows. `active`: only with an active registration, only without, or with None all."""

    active: bool | None
    platform: int = 0
    ids: Sequence[str] = ()
    search: str = ""
    """Is in the display name, hardware id, serial number or MAC address."""
    tags: Sequence[tuple[str, str]] = ()
    """All of these."""
    last_seen_user_id: str = ""
    last_seen_user_email: str = ""
    device_profile_id: str = ""
    """Of the registration that was heard of last."""


@dataclass(frozen=True, slots=True)
class Matching:
    """A pass over all registrations of an organization, which gives each the profile that matches it.

    `end_time` is None while it is under way, and `after` the registration behind which it goes on.
    """

    request_time: int
    end_time: int | None
    after: str
    checked: int
    moved: int


@dataclass(frozen=True, slots=True)
class Fence:
    """The newest removal and revocation of a user's registrations that the registry knows, as revisions of identity."""

    removed_revision: int = 0
    revoked_revision: int = 0

    def check(self, authorize_revision: int) -> None:
        """Refuses an enrollment that was authorized before the user was removed or revoked."""
        if self.removed_revision >= authorize_revision:
            raise UserRemoved("the user was removed while enrolling; enroll again if that is still allowed")
        if self.revoked_revision >= authorize_revision:
            raise EnrollmentAborted("the user's registrations were revoked while enrolling; try again")


@dataclass(frozen=True, slots=True)
class FormerKey:
    """A key that a registration had. They are numbered from 1, the oldest first."""

    number: int
    key_type: int
    public_key: bytes
    begin_time: int
    end_time: int


OVERRIDE_HOURS = (1, 3, 6, 12, 24)
"""How long override codes hold, counted from the beginning of the hour in which they are made."""
OVERRIDE_DIGITS = 7


@dataclass(frozen=True, slots=True)
class OverrideCode:
    """A code that is good until its time, as often as one likes."""

    hours: int
    code: str
    expire_time: int


class End(StrEnum):
    """Why a registration ends by itself, as the breaker names who asks for it."""

    REVOKED = "revoked registrations"
    """It was revoked for longer than its organization keeps such (decision 17)."""
    SILENT = "silent registrations"
    """It was silent for longer than it may be (decision 15)."""

    def holds(self, registration: Registration, since: int) -> bool:
        """Whether the registration is as it was then: still revoked, or not heard of."""
        if self is End.REVOKED:
            return registration.revoke_time is not None and registration.revoke_time <= since
        return registration.expire_after is not None and registration.activity <= since


def end_of(registration: Registration, revoked_before: int, now: int) -> End | None:
    """Why it ends by itself now, if it does. It has been revoked for too long if it was at or before that time."""
    if registration.revoke_time is not None and registration.revoke_time <= revoked_before:
        return End.REVOKED
    if registration.expire_time is not None and registration.expire_time <= now:
        return End.SILENT
    return None


@dataclass(frozen=True, slots=True)
class Usage:
    """How many registrations there are, and when the one was revoked that has been for longest."""

    active: int
    revoked: int
    oldest_revoke_time: int | None


_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")


def check_shared(platforms: Collection[int], claims: Claims) -> None:
    """Refuses multi-user mode where the organization does not allow it, and to clients that do not know it."""
    least = ".".join(map(str, LEAST_WINDOWS_VERSION))
    if claims.platform not in platforms:
        raise MultiUserNotAllowed(
            "the organization does not let people share devices of this platform; an admin can change that",
            least_windows_version=least,
        )
    version = claims.client_version
    numbers = tuple(map(int, version.split("."))) if _VERSION.fullmatch(version) else ()
    if claims.platform == WINDOWS and numbers < LEAST_WINDOWS_VERSION:
        raise MultiUserNotAllowed(
            f"sharing a Windows device needs client version {least} or later", least_windows_version=least
        )


def displaced(present: Iterable[Registration], holder: Holder, os_user: str | None) -> list[Registration]:
    """Which of the users' registrations on a device go when one of this holder becomes active there.

    The holder's own is replaced, and another user's refuses it (decision 18). In multi-user mode others stay, but those
    from before it go, revoked ones too (decision 19).
    """
    if os_user is not None:
        return [it for it in present if it.os_user is None or (it.state == State.ACTIVE and it.holder == holder)]
    active = [it for it in present if holder.user_id and it.state == State.ACTIVE]
    for it in active:
        if it.holder != holder:
            raise held(it, holder.user_id)
    return active


def rival(wanted: Registration, active: Iterable[Registration]) -> Registration | None:
    """Which of the users' active registrations on a device keeps a revoked one from being active again there."""
    for it in active:
        if it.os_user is None or wanted.os_user is None or it.holder == wanted.holder:
            return it
    return None


def held(present: Registration, user_id: str) -> GuardhouseError:
    """Why a registration of the user cannot become active on a device where `present` is (decision 18)."""
    if present.holder.user_id == user_id:
        return DeviceHeldByAnotherRegistration(
            "the user has a newer active registration on this device; delete that one first",
            registration_id=present.registration_id,
        )
    return DeviceHeldByAnotherUser(
        "another user's registration is active on this device; its user can leave, or an admin can revoke or delete it",
        device_id=present.device_id,
    )
