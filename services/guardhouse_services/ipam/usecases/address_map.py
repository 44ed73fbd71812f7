"""Looking at addresses: which there are in which state, and how full a subnet is."""

from collections.abc import Mapping, Sequence

from guardhouse.errors import SubnetNotFound
from guardhouse_services.database import Database, Transaction
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.address_map import AddressMap, block_size, blocks_of
from guardhouse_services.ipam.domain.addresses import AddressState, Filter
from guardhouse_services.ipam.domain.leases import Lease
from guardhouse_services.ipam.domain.subnets import Subnet
from guardhouse_services.paging import Page


class AddressView:
    """Reads only."""

    def __init__(self, database: Database, quarantine: int) -> None:
        self._database = database
        self._quarantine = quarantine

    async def list(
        self,
        organization_id: str,
        state: AddressState | None,
        subnet_id: str,
        device_id: str,
        holder_id: str,
        page: Page,
    ) -> tuple[list[Lease], Mapping[int, str]]:
        """Leases, up to one more than the page shows, and the ids of subnets by their numbers.

        Raises SubnetNotFound.
        """

        def read(tx: Transaction) -> tuple[list[Lease], Mapping[int, str]]:
            subnets = _subnets(tx, organization_id)
            number = _named(subnets, subnet_id).number if subnet_id else None
            wanted = Filter(state, number, device_id, holder_id)
            before = tx.now - self._quarantine
            found = store.addresses.page(tx, organization_id, wanted, before, page.after, page.size + 1)
            return found, {each.number: each.subnet_id for each in subnets}

        return await self._database.read(read)

    async def map(self, organization_id: str, subnet_id: str, blocks: int) -> AddressMap:
        """Of the default subnet, unless one is named. It reads each pair of it that was ever given out.

        Raises SubnetNotFound.
        """

        def read(tx: Transaction) -> AddressMap:
            subnet = _named(_subnets(tx, organization_id), subnet_id)
            size = block_size(subnet, blocks)
            counted = store.addresses.count(tx, organization_id, subnet, size, tx.now - self._quarantine)
            return AddressMap(subnet, size, blocks_of(subnet, size, counted, store.pins.all_of(tx, organization_id)))

        return await self._database.read(read)


def _subnets(tx: Transaction, organization_id: str) -> Sequence[Subnet]:
    space = store.subnets.read_space(tx, organization_id)
    return store.subnets.of_space(tx, organization_id, space) if space else ()


def _named(subnets: Sequence[Subnet], subnet_id: str) -> Subnet:
    """The one with the id; with none, the default one."""
    found = next((each for each in subnets if (each.subnet_id == subnet_id if subnet_id else each.is_default)), None)
    if found is None:
        message = "" if subnet_id else "the organization has no subnet yet; its first reservation makes one"
        raise SubnetNotFound(subnet_id, message)
    return found
