"""Pins: keeping addresses for somebody, or from everybody (decision 25)."""

import ipaddress
from dataclasses import replace

from guardhouse import ids
from guardhouse.errors import AddressHeld, InvalidField, LimitReached, PinExists, PinNotFound
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import Lease, State
from guardhouse_services.ipam.domain.pins import LIMIT, SPAN, Pin, Pins
from guardhouse_services.ipam.domain.subnets import Network, Space, Subnet, first_address, pairs_of
from guardhouse_services.ipam.usecases.reservations import opened
from guardhouse_services.paging import Page


class AddressPins:
    """Makes, shows and takes back pins. `network` is that of an organization's first subnet, which a pin may begin."""

    def __init__(self, database: Database, directory: Directory, network: str) -> None:
        self._database = database
        self._directory = directory
        self._network = network

    async def pin(
        self, call: Call, organization_id: str, network: Network, device_id: str, holder_id: str, description: str
    ) -> Pin:
        """Without a holder the network's addresses are given to nobody; those that are held stay so.

        Raises OrganizationNotFound, InvalidField, PinExists, AddressHeld and LimitReached.
        """
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> Pin:
            if (done := requests.find(tx, call.key)) is not None and (known := requests.recall(Pin, done)) is not None:
                return known
            space, subnets = opened(tx, organization_id, self._network)
            first, last = _within(network, space, subnets, bool(holder_id))
            pins = Pins(store.pins.all_of(tx, organization_id))
            there = pins.overlapping(first, last) or (pins.of(device_id, holder_id) if holder_id else None)
            if there is not None:
                message = f"{there.pin_id} pins an address of it, or another one for the same holder and device"
                raise PinExists(f"{message}; unpin that first", pin_id=there.pin_id)
            if len(pins) >= LIMIT:
                raise LimitReached(f"an organization has at most {LIMIT} pins; unpin one first", limit=str(LIMIT))
            if holder_id:
                _check_free(store.leases.find_pair(tx, organization_id, first), device_id, holder_id)
            made = Pin(
                pin_id=ids.new_id(ids.PIN, tx.now),
                first_ipv4=first,
                last_ipv4=last,
                device_id=device_id or None,
                holder_id=holder_id or None,
                description=description,
                create_time=tx.now,
            )
            store.pins.insert(tx, organization_id, made)
            requests.record(tx, call, made.pin_id, value=requests.remember(made))
            return made

        return await self._database.write(work, turn=organization_id)

    async def unpin(self, call: Call, organization_id: str, pin_id: str) -> None:
        """Raises OrganizationNotFound and PinNotFound."""
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> None:
            if requests.find(tx, call.key) is not None:
                return
            space, subnets = opened(tx, organization_id, self._network)
            pin = store.pins.find(tx, organization_id, pin_id)
            if pin is None:
                raise PinNotFound(pin_id)
            store.pins.delete(tx, organization_id, pin_id)
            subnet = next((each for each in subnets if each.contains(pin.first_ipv4, pin.last_ipv4)), None)
            if subnet is not None:
                _give_back(tx, organization_id, space, subnet, pin)
            requests.record(tx, call, pin_id)

        await self._database.write(work, turn=organization_id)

    async def list(self, organization_id: str, page: Page) -> list[Pin]:
        """Up to one more than the page shows."""
        after, limit = page.after, page.size + 1
        return await self._database.read(lambda tx: store.pins.page(tx, organization_id, after, limit))


def _within(network: Network, space: Space, subnets: list[Subnet], has_holder: bool) -> tuple[int, int]:
    """The first and the last IPv4 address, which are of one subnet."""
    pairs = pairs_of(network, space.ipv6)
    subnet = pairs and next((each for each in subnets if each.contains(*pairs)), None)
    if pairs is None or subnet is None:
        raise InvalidField("network", f"{network} is in no subnet of the organization")
    first, last = pairs
    if last - first >= SPAN:
        raise InvalidField("network", f"{network} has more than {SPAN} addresses; exclude its parts one by one")
    if has_holder and first != last:
        raise InvalidField("network", f"{network} is more than the one address that a holder may have")
    if has_holder and not first_address(subnet.ipv4) <= first < int(subnet.network.broadcast_address):
        raise InvalidField(
            "network", f"{ipaddress.IPv4Address(first)} names the subnet, or all of it, and nobody has it"
        )
    return first, last


def _check_free(pair: Lease | None, device_id: str, holder_id: str) -> None:
    """Raises AddressHeld for one that somebody else has now."""
    if pair is None or pair.state is State.RESTING or (pair.device_id, pair.holder_id) == (device_id, holder_id):
        return
    message = f"{ipaddress.IPv4Address(pair.ipv4)} is held by {pair.registration_id}; delete that, or pin another one"
    raise AddressHeld(message, registration_id=pair.registration_id or "")


def _give_back(tx: Transaction, organization_id: str, space: Space, subnet: Subnet, pin: Pin) -> None:
    """Lets everybody have again what was pinned: searches have passed it by."""
    first = max(pin.first_ipv4, first_address(subnet.ipv4))
    last = min(pin.last_ipv4, subnet.next_ipv4 - 1, int(subnet.network.broadcast_address) - 1)
    known = store.leases.find_pairs(tx, organization_id, first, last)
    resting = [each.rest_time for each in known if each.rest_time is not None]
    place = min([subnet.rested_time, *resting])
    store.subnets.save_place(tx, organization_id, replace(subnet, rested_time=place))
    skipped = set(range(first, last + 1)) - {each.ipv4 for each in known}
    store.leases.add_leases(
        tx,
        organization_id,
        [
            Lease(
                lease_id=ids.new_id(ids.LEASE, tx.now),
                ipv4=ipv4,
                ipv6=space.ipv6_of(ipv4),
                state=State.RESTING,
                registration_id=None,
                device_id="",
                holder_id="",
                reserve_time=tx.now,
                rest_time=place,
                subnet=subnet.number,
            )
            for ipv4 in sorted(skipped)
        ],
    )
