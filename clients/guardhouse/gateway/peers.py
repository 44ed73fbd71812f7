"""Which peers a WireGuard interface has to have, and what makes it so. Pure: no socket, no clock."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from guardhouse.registry.v1 import registry_pb2 as registry

AllowedIps = tuple[str, ...]
"""In the order of their texts, so that the same are equal. As sets they would make a peer a fifth larger in memory."""
Wanted = Mapping[bytes, AllowedIps]
"""The peers by their public keys."""

NOBODY: Final[Wanted] = {}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as an interface has it."""

    allowed_ips: AllowedIps
    handshake_time: int = 0
    """When it last proved who it is, in seconds since 1970. 0: never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to become of a peer."""

    public_key: bytes
    allowed_ips: AllowedIps | None
    """Those that it is left with, and it is made if there is none. None: it goes."""


class Peers:
    """The active registrations of one organization with a key that WireGuard uses: the state of a View."""

    def __init__(self, organization_id: str) -> None:
        self.organization_id = organization_id
        self.wanted: dict[bytes, AllowedIps] = {}
        self._keys: dict[str, bytes] = {}
        self._holders: dict[bytes, str] = {}
        self._changed: set[bytes] = set()

    def apply(self, event: registry.Event) -> None:
        match event.WhichOneof("kind"):
            case "registration":
                of = event.registration.registration
                # A state that a newer registry may know does not admit.
                if of.state == registry.REGISTRATION_STATE_ACTIVE and of.key_type == registry.KEY_TYPE_CURVE25519:
                    self._put(of)
                else:
                    self._drop(of.registration_id)
            case "registration_deleted":
                self._drop(event.registration_deleted)

    def take_changed(self) -> set[bytes]:
        """The keys of which something has changed since this was asked last."""
        changed, self._changed = self._changed, set()
        return changed

    def holder(self, public_key: bytes) -> str | None:
        """The registration whose key it is."""
        return self._holders.get(public_key)

    def events(self) -> Iterator[registry.Event]:
        """What makes another that is as this one is now. They are made when they are asked for, in any thread."""
        held = [(registration_id, key, self.wanted[key]) for key, registration_id in self._holders.items()]
        return itertools.starmap(_event, held)

    def _put(self, of: registry.Registration) -> None:
        registration_id, key, allowed_ips = of.registration_id, of.public_key, _allowed_ips(of)
        if self._holders.get(key) == registration_id and self.wanted[key] == allowed_ips:
            # A device's posture, say: nothing that an interface knows.
            return
        self._drop(registration_id)
        self.wanted[key] = allowed_ips
        self._keys[registration_id] = key
        self._holders[key] = registration_id
        self._changed.add(key)

    def _drop(self, registration_id: str) -> None:
        key = self._keys.pop(registration_id, None)
        # Another may hold it already: in a snapshot the events of two registrations come in no order.
        if key is not None and self._holders.get(key) == registration_id:
            del self.wanted[key], self._holders[key]
            self._changed.add(key)


def operations(keys: Iterable[bytes], wanted: Wanted) -> list[Operation]:
    """What makes these peers what is wanted. Who goes comes first: the others may be given what it had."""
    found = [Operation(key, wanted.get(key)) for key in keys]
    return sorted(found, key=lambda it: it.allowed_ips is not None)


def difference(wanted: Wanted, present: Mapping[bytes, Peer]) -> list[bytes]:
    """The peers that are not what is wanted; those who have to go come first."""
    gone = [key for key in present if key not in wanted]
    return gone + [key for key, ips in wanted.items() if (at := present.get(key)) is None or at.allowed_ips != ips]


def _event(registration_id: str, public_key: bytes, allowed_ips: AllowedIps) -> registry.Event:
    event = registry.Event()
    of = event.registration.registration
    of.registration_id = registration_id
    of.state = registry.REGISTRATION_STATE_ACTIVE
    of.key_type = registry.KEY_TYPE_CURVE25519
    of.public_key = public_key
    for network in allowed_ips:
        address = network.partition("/")[0]
        if ":" in address:
            of.ipv6 = address
        else:
            of.ipv4 = address
    return event


def _allowed_ips(of: registry.Registration) -> AllowedIps:
    """Its own two addresses and nothing else, so that nobody sends in another's name."""
    ipv4 = [f"{IPv4Address(of.ipv4)}/32"] if of.ipv4 else []
    return tuple(sorted([*ipv4, *([f"{IPv6Address(of.ipv6)}/128"] if of.ipv6 else [])]))
