"""Leases, and what may happen to them.

A pair is RESERVED for an enrollment, HELD by a registration, or RESTING until it may be given out again. Times are
microseconds since the Unix epoch. An IPv4 address is its number; the IPv6 address of the pair ends in the same 32 bits,
so one allocator serves both families.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from guardhouse.durations import format_duration, parse_duration
from guardhouse.errors import DurationInvalid

SECOND = 1_000_000
MIN_QUARANTINE = 600 * SECOND
"""Ten minutes (decision 25): longer than any replica may decide from old state."""
ASK_AFTER = 60 * SECOND
"""How long a reservation waits for its outcome before the registry is asked."""
ASK_AGAIN = 5 * SECOND
KEEP_TOMBSTONE = 24 * 3600 * SECOND
MIN_HISTORY = 24 * 3600 * SECOND
FOREVER = 2**63 - 1
"""Later than any time: only what has no end lasts until then."""


class State(StrEnum):
    RESERVED = "RESERVED"
    HELD = "HELD"
    RESTING = "RESTING"


def parse_quarantine(text: str) -> int:
    """The setting `quarantine`, in microseconds. Raises DurationInvalid below ten minutes (decision 25)."""
    quarantine = parse_duration(text, "quarantine")
    if quarantine < MIN_QUARANTINE:
        raise DurationInvalid("quarantine", f"quarantine is at least {format_duration(MIN_QUARANTINE)}, not {text}")
    return quarantine


def parse_history(text: str) -> int:
    """The setting `address_history`, in microseconds. Raises DurationInvalid below a day."""
    history = parse_duration(text, "address_history")
    if history < MIN_HISTORY:
        raise DurationInvalid(
            "address_history", f"address_history is at least {format_duration(MIN_HISTORY)}, not {text}"
        )
    return history


@dataclass(frozen=True, slots=True)
class Lease:
    """A pair that was given out at least once, with whom it was given to last."""

    lease_id: str
    """Made with each reservation: a lease that has ended never comes back."""
    ipv4: int
    ipv6: str
    state: State
    registration_id: str | None
    """While RESERVED the registration that the intent will be, while HELD the one that holds it."""
    device_id: str
    holder_id: str
    """A user or a service token; its prefix says which."""
    reserve_time: int
    ask_time: int | None = None
    """When to ask the registry what has become of the registration."""
    hold_time: int | None = None
    claim_id: str | None = None
    """The registration that will take the lease over when the one that has it is gone."""
    claim_time: int | None = None
    release_time: int | None = None
    """When a registration gave the pair back last. It is kept through a reservation that comes to nothing."""
    rest_time: int | None = None
    """The place in the queue of resting pairs; only while RESTING."""
    subnet: int = 0
    """The number of its subnet."""
    revoke_time: int | None = None
    """When the registration that holds it was revoked, which keeps the pair (decision 16). None: it is active."""

    @property
    def is_unseen(self) -> bool:
        """Whether no registration, as far as is known, ever was seen with the pair under this lease."""
        return self.state is State.RESERVED and self.claim_id is None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the history of the addresses something stands: holds come by address, and of one address by time."""

    ipv4: int
    hold_time: int = -1
    registration_id: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """A registration's hold of a pair, which is history when it is over (decision 26)."""

    lease_id: str
    registration_id: str
    device_id: str
    holder_id: str
    ipv4: int
    ipv6: str
    hold_time: int
    release_time: int | None = None

    @property
    def place(self) -> Place:
        return Place(self.ipv4, self.hold_time, self.registration_id)


@dataclass(frozen=True, slots=True)
class History:
    """A stretch of the history of addresses: what is wanted of it, and where it ends, if it ends before the whole."""

    holdings: Sequence[Holding]
    end: Place | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """A registration holds a lease, since `create_time`."""

    registration_id: str
    lease_id: str
    create_time: int
    revoke_time: int | None = None
    """When it was revoked; None while it is active."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A registration was deleted."""

    registration_id: str


class Ledger:
    """What events of the registry do to the leases that they are about.

    Events may come again, and late: a snapshot's pages are newer than the changes that follow them. So an event never
    takes a lease from the registration that has it. It leaves a claim, and when the holder is known to be gone the
    lease is the claimant's, or rests. Whatever is replayed up to the present ends with the right claim.
    """

    def __init__(self, leases: Iterable[Lease], rested_time: int, now: int) -> None:
        self.changed: dict[str, Lease] = {}
        """Leases after the events, by id."""
        self.holdings: dict[tuple[str, str], Holding] = {}
        """Holds that began or ended, by lease and registration, in order."""
        self._before = {lease.lease_id: lease for lease in leases}
        self._leases = dict(self._before)
        self._named: defaultdict[str, set[str]] = defaultdict(set)
        self._rested_time = rested_time
        self._last_release = rested_time
        self._now = now
        for lease in self._leases.values():
            self._index(lease)

    def apply(self, events: Iterable[Exists | Gone]) -> None:
        for event in events:
            if isinstance(event, Gone):
                self.gone(event.registration_id)
            else:
                self.exists(event)

    def exists(self, event: Exists) -> None:
        if not event.lease_id:
            return
        lease = self._leases.get(event.lease_id)
        if lease is None or lease.state is State.RESTING:
            # A lease that has ended never comes back: the event is an old one.
            pass
        elif lease.registration_id != event.registration_id:
            self._put(replace(lease, claim_id=event.registration_id, claim_time=event.create_time))
        elif lease.state is State.RESERVED:
            self._hold(lease, event.registration_id, event.create_time, event.revoke_time)
        elif lease.claim_id or lease.ask_time or lease.revoke_time != event.revoke_time:
            self._put(replace(lease, claim_id=None, claim_time=None, ask_time=None, revoke_time=event.revoke_time))
        for other in self._of(event.registration_id):
            if other.state is State.RESERVED and other.lease_id != event.lease_id:
                # It took over its predecessor's lease, so nobody saw the pair that was reserved for it.
                self.free(other)

    def gone(self, registration_id: str) -> None:
        for lease in self._of(registration_id):
            if lease.registration_id == registration_id:
                self._end(lease)
            elif lease.claim_id == registration_id:
                self._put(replace(lease, claim_id=None, claim_time=None))

    def free(self, lease: Lease) -> None:
        """Gives back a reservation that came to nothing.

        No peer ever saw the pair with this holder, so it may go out at once; but if it came back from quarantine to the
        holder before, it rests as long as it would have.
        """
        self._rest(lease, lease.release_time, max(lease.release_time or 0, self._rested_time))

    def events(self) -> Sequence[Holding]:
        """How each lease stands that others must know of: its newest hold."""
        newest = {holding.lease_id: holding for holding in self.holdings.values()}
        return list(newest.values())

    def counts(self) -> Mapping[int, tuple[int, int]]:
        """How many more pairs of each subnet are held, and how many more of these by registrations that are revoked."""
        counts: dict[int, tuple[int, int]] = {}
        for lease_id, after in self.changed.items():
            before = self._before[lease_id]
            held, revoked = counts.get(after.subnet, (0, 0))
            held += (after.state is State.HELD) - (before.state is State.HELD)
            revoked += (after.revoke_time is not None) - (before.revoke_time is not None)
            counts[after.subnet] = held, revoked
        return {subnet: count for subnet, count in counts.items() if any(count)}

    def _hold(self, lease: Lease, registration_id: str, since: int, revoke_time: int | None = None) -> None:
        """The registry's time counts, within what this service knows for certain: holds of a pair never overlap."""
        since = min(max(since, lease.hold_time or lease.reserve_time), self._now)
        if lease.hold_time is not None:
            self._note(lease, lease.hold_time, since)
        held = replace(
            lease,
            state=State.HELD,
            registration_id=registration_id,
            ask_time=None,
            hold_time=since,
            claim_id=None,
            claim_time=None,
            revoke_time=revoke_time,
        )
        self._put(held)
        self._note(held, since)

    def _end(self, lease: Lease) -> None:
        # A reservation whose registration has come and gone unseen was held for a while: peers may know it.
        since = lease.hold_time or lease.reserve_time
        if lease.claim_id is not None:
            self._hold(replace(lease, hold_time=since), lease.claim_id, lease.claim_time or self._now)
            return
        self._note(lease, since, self._now)
        # Pairs that are given back together rest one microsecond apart, so that the queue has an order.
        self._last_release = max(self._last_release + 1, self._now)
        self._rest(lease, self._now, self._last_release)

    def _rest(self, lease: Lease, release_time: int | None, rest_time: int) -> None:
        resting = replace(
            lease,
            state=State.RESTING,
            registration_id=None,
            ask_time=None,
            hold_time=None,
            claim_id=None,
            claim_time=None,
            release_time=release_time,
            rest_time=rest_time,
            revoke_time=None,
        )
        self._put(resting)

    def _note(self, lease: Lease, hold_time: int, release_time: int | None = None) -> None:
        registration_id = lease.registration_id or ""
        self.holdings[lease.lease_id, registration_id] = Holding(
            lease.lease_id,
            registration_id,
            lease.device_id,
            lease.holder_id,
            lease.ipv4,
            lease.ipv6,
            hold_time,
            release_time,
        )

    def _of(self, registration_id: str) -> list[Lease]:
        return [self._leases[lease_id] for lease_id in sorted(self._named.get(registration_id, ()))]

    def _put(self, lease: Lease) -> None:
        self._leases[lease.lease_id] = self.changed[lease.lease_id] = lease
        self._index(lease)

    def _index(self, lease: Lease) -> None:
        for registration_id in (lease.registration_id, lease.claim_id):
            if registration_id is not None:
                self._named[registration_id].add(lease.lease_id)
