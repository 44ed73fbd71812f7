"""Which peers an interface has to have, without one."""

import hashlib
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from guardhouse.gateway.peers import AllowedIps, Operation, Peer, Peers, Wanted, difference, operations
from guardhouse.registry.v1 import registry_pb2 as pb

NAMES = [f"reg_{number:032x}" for number in range(5)]


def key(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


def active(name: str, number: int, key_type: int = pb.KEY_TYPE_CURVE25519, state: int = 0) -> pb.Event:
    """A registration with the key of this number; its addresses are those of its name."""
    event = pb.Event()
    place = NAMES.index(name) + 1
    event.registration.registration.CopyFrom(
        pb.Registration(
            registration_id=name,
            state=state or pb.REGISTRATION_STATE_ACTIVE,  # type: ignore[arg-type]
            key_type=key_type,  # type: ignore[arg-type]
            public_key=key(number),
            ipv4=f"100.96.0.{place}",
            ipv6=f"fd00::{place}",
        )
    )
    return event


def revoked(name: str, number: int) -> pb.Event:
    return active(name, number, state=pb.REGISTRATION_STATE_REVOKED)


def deleted(name: str) -> pb.Event:
    return pb.Event(registration_deleted=name)


def peers(events: Iterable[pb.Event]) -> Peers:
    found = Peers("org")
    for event in events:
        found.apply(event)
    return found


def naive(events: Iterable[pb.Event]) -> dict[bytes, AllowedIps]:
    """The last word on each registration, and of those the active ones."""
    last = {}
    for event in events:
        if event.HasField("registration"):
            last[event.registration.registration.registration_id] = event.registration.registration
        else:
            last.pop(event.registration_deleted, None)
    return {
        it.public_key: (f"{it.ipv4}/32", f"{it.ipv6}/128")
        for it in last.values()
        if it.state == pb.REGISTRATION_STATE_ACTIVE and it.key_type == pb.KEY_TYPE_CURVE25519
    }


def carried_out(todo: Iterable[Operation], present: Wanted) -> dict[bytes, AllowedIps]:
    """What an interface makes of operations: an address is whose it was given last."""
    has = dict(present)
    for it in todo:
        has.pop(it.public_key, None)
        if it.allowed_ips is not None:
            has = {other: _without(ips, it.allowed_ips) for other, ips in has.items()}
            has[it.public_key] = it.allowed_ips
    return has


def _without(ips: AllowedIps, taken: AllowedIps) -> AllowedIps:
    return tuple(ip for ip in ips if ip not in taken)


@st.composite
def histories(draw: st.DrawFn) -> list[pb.Event]:
    """What a registry says: a key is one active registration's at a time."""
    held: dict[str, int] = {}
    events = []
    for name, number, what in draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 6), st.sampled_from("aaardk")), max_size=40)
    ):
        others = [it for other, it in held.items() if other != name]
        if what == "a" and number not in others:
            held[name] = number
            events.append(active(name, number))
        elif what == "k" and number not in others:
            held.pop(name, None)
            events.append(active(name, number, pb.KEY_TYPE_SECP256R1))
        elif what == "r" and name in held:
            events.append(revoked(name, held.pop(name)))
        elif what == "d":
            held.pop(name, None)
            events.append(deleted(name))
    return events


@given(histories())
def test_the_peers_are_the_last_word_on_each_registration(events: list[pb.Event]) -> None:
    """Revoked: unable to connect (decision 16). After any history the peers are what a naive reader makes of it."""
    assert peers(events).wanted == naive(events)


@given(histories(), st.data())
def test_a_snapshot_read_while_things_change_ends_with_the_same_peers(
    events: list[pb.Event], data: st.DataObject
) -> None:
    """Its rows are as old as each other's pages, in no order; what happened meanwhile comes behind them."""
    began = data.draw(st.integers(0, len(events)))
    rows = []
    for name in NAMES:
        read = data.draw(st.integers(began, len(events)))
        its = [
            it
            for it in events[:read]
            if name in (it.registration.registration.registration_id, it.registration_deleted)
        ]
        if its and its[-1].HasField("registration"):
            rows.append(its[-1])
    found = peers([*data.draw(st.permutations(rows)), *events[began:]])
    assert found.wanted == naive(events)


@given(histories(), st.integers(1, 5))
def test_changes_alone_keep_an_interface_equal(events: list[pb.Event], step: int) -> None:
    """What has changed is enough: an interface that is told nothing else has all that is wanted, and nothing more."""
    found, present = Peers("org"), dict[bytes, AllowedIps]()
    for start in range(0, len(events), step):
        for event in events[start : start + step]:
            found.apply(event)
        present = carried_out(operations(found.take_changed(), found.wanted), present)
        assert present == found.wanted
        assert not found.take_changed()


@given(histories(), histories())
def test_a_whole_look_makes_any_interface_equal(there: list[pb.Event], events: list[pb.Event]) -> None:
    """Whatever another program has left in it."""
    found = peers(events)
    present = naive(there)
    different = difference(found.wanted, {each: Peer(ips) for each, ips in present.items()})
    assert carried_out(operations(different, found.wanted), present) == found.wanted
    assert set(different) == {each for each in present | found.wanted if present.get(each) != found.wanted.get(each)}


def test_a_rotated_key_replaces_the_old_one_in_one_operation_set() -> None:
    """Decision 21: and the old one goes first, or it would take the addresses with it."""
    found = peers([active(NAMES[0], 1)])
    found.take_changed()
    found.apply(active(NAMES[0], 2))
    addresses = ("100.96.0.1/32", "fd00::1/128")
    assert operations(found.take_changed(), found.wanted) == [Operation(key(1), None), Operation(key(2), addresses)]


def test_what_an_interface_does_not_know_changes_nothing() -> None:
    """A posture comes every hour; to send the same peer again would be for nothing."""
    found = peers([active(NAMES[0], 1)])
    found.take_changed()
    event = active(NAMES[0], 1)
    event.registration.posture.passed.append("firewall")
    found.apply(event)
    assert not found.take_changed()


def test_who_takes_over_a_key_keeps_it() -> None:
    """What is said of the one before comes late in a snapshot, whose rows are in no order."""
    found = peers([active(NAMES[0], 1), active(NAMES[1], 1), revoked(NAMES[0], 1)])
    assert found.wanted == {key(1): ("100.96.0.2/32", "fd00::2/128")}
    found.apply(deleted(NAMES[1]))
    assert not found.wanted
