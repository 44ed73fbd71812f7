"""The use cases of the registry, an object for each kind of thing. Each transaction is a function of its own."""

from typing import TYPE_CHECKING

from guardhouse.clock import Clock
from guardhouse_services.breaker.usecases import Decisions
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.registry.usecases.activity import Activity
from guardhouse_services.registry.usecases.callers import Callers
from guardhouse_services.registry.usecases.device_profiles import DeviceProfiles
from guardhouse_services.registry.usecases.devices import Devices
from guardhouse_services.registry.usecases.enrollments import Enrollments
from guardhouse_services.registry.usecases.gateways import Gateways
from guardhouse_services.registry.usecases.heartbeats import Heartbeats
from guardhouse_services.registry.usecases.lifetimes import BREAKER, Lifetimes
from guardhouse_services.registry.usecases.os_sessions import OsSessions
from guardhouse_services.registry.usecases.override_codes import OverrideCodes
from guardhouse_services.registry.usecases.profile_matching import ProfileMatching
from guardhouse_services.registry.usecases.proofs import Proofs
from guardhouse_services.registry.usecases.registrations import Registrations
from guardhouse_services.registry.usecases.rotations import Rotations

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub
    from guardhouse.ipam.v1.ipam_pb2_grpc import AddressServiceAsyncStub


class Registry:
    """Which devices and registrations exist. `identity` and `ipam` are stubs of the other services."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        master_key: MasterKey,
        directory: Directory,
        identity: "AuthenticationServiceAsyncStub",
        ipam: "AddressServiceAsyncStub",
    ) -> None:
        proofs = Proofs(clock, master_key)
        self.proof_key = proofs.proof_key
        self.enrollments = Enrollments(database, master_key, directory, proofs, identity, ipam)
        self.registrations = Registrations(database)
        self.rotations = Rotations(database, proofs)
        self.devices = Devices(database)
        self.device_profiles = DeviceProfiles(database, directory)
        self.os_sessions = OsSessions(database)
        self.profile_matching = ProfileMatching(database)
        self.heartbeats = Heartbeats(clock, database)
        self.gateways = Gateways(clock, database)
        self.lifetimes = Lifetimes(database, directory)
        self.held_actions = Decisions(database, BREAKER, self.lifetimes.carry_out)
        self.override_codes = OverrideCodes(database, master_key)
        self.callers = Callers(database)
        self.activity = Activity(clock, database, directory, identity)
