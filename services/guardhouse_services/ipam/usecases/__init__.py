"""The use cases of ipam, an object for each resource. Each transaction is a function of its own."""

from guardhouse.clock import Clock
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.ipam.usecases.address_map import AddressView
from guardhouse_services.ipam.usecases.addresses import Addresses, ResolveIntent
from guardhouse_services.ipam.usecases.effects import apply, missing, seen, snapshot
from guardhouse_services.ipam.usecases.ip_profiles import IpProfiles
from guardhouse_services.ipam.usecases.pins import AddressPins
from guardhouse_services.ipam.usecases.subnets import Subnets

__all__ = ["Ipam", "apply", "missing", "seen", "snapshot"]


class Ipam:
    """Who holds which virtual address."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        directory: Directory,
        network: str,
        quarantine: int,
        history: int,
        resolve_intent: ResolveIntent,
    ) -> None:
        self.subnets = Subnets(database, directory, network, quarantine)
        self.ip_profiles = IpProfiles(database, directory, network)
        self.addresses = Addresses(clock, database, directory, network, quarantine, history, resolve_intent)
        self.pins = AddressPins(database, directory, network)
        self.view = AddressView(database, quarantine)
