"""Ipam as a process: `python -m guardhouse_services.ipam`."""

from guardhouse.clock import Clock
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Effects, Freshness
from guardhouse_services.ipam import metrics
from guardhouse_services.ipam.domain.leases import parse_history, parse_quarantine
from guardhouse_services.ipam.domain.subnets import parse_network
from guardhouse_services.ipam.servicer import IpamServicer
from guardhouse_services.ipam.store import metadata
from guardhouse_services.ipam.usecases import Ipam, apply, missing, seen, snapshot
from guardhouse_services.migrate import migrate
from guardhouse_services.node import Node
from guardhouse_services.paging import Pages
from guardhouse_services.peers import Peers
from guardhouse_services.run import serve

SERVICE = "ipam"


def build(settings: Settings, clock: Clock) -> Node:
    """A replica, ready to be entered. Raises InvalidField for settings that nobody should run with."""
    network = parse_network(settings.ipv4_subnet)
    quarantine = parse_quarantine(settings.quarantine)
    history = parse_history(settings.address_history)
    master_key = MasterKey.read(settings.key_path)
    database = Database(settings.database(SERVICE), clock, SERVICE, pb.Change)
    migrate(database.engine, SERVICE)
    peers = Peers(settings, SERVICE)
    watch_identity = identity_pb2_grpc.IdentityFeedServiceStub(peers.channel("identity")).Watch
    watch_registry = registry_pb2_grpc.RegistryFeedServiceStub(peers.channel("registry")).Watch
    enrollments = registry_pb2_grpc.EnrollmentServiceStub(peers.channel("registry"))
    directory = Directory(clock)
    directory.follower = Follower(
        f"{SERVICE} directory", watch_identity, identity_pb2.WatchRequest, directory.view, clock
    )

    async def resolve_intent(organization_id: str, intent_id: str) -> registry_pb2.ResolveIntentResponse:
        question = registry_pb2.ResolveIntentRequest(organization_id=organization_id, intent_id=intent_id)
        return await enrollments.ResolveIntent(question)

    ipam = Ipam(clock, database, directory, network, quarantine, history, resolve_intent)
    effects = Effects(database, "registry", apply, seen, missing)
    ipam.addresses.follower = Follower(f"{SERVICE} leases", watch_registry, registry_pb2.WatchRequest, effects, clock)
    feed = Feed(database, pb, snapshot, settings.poll_seconds)
    audit = Audit(clock, database, SERVICE, pb, master_key, settings)
    return Node(
        service=SERVICE,
        settings=settings,
        clock=clock,
        database=database,
        peers=peers,
        directory=directory,
        feed=feed,
        audit=audit,
        freshness=Freshness(database, SERVICE, views=[("identity", directory.follower)], effects=["registry"]),
        tables=metadata,
        contract=pb.DESCRIPTOR,
        servicer=IpamServicer(clock, ipam, Pages(master_key), feed, audit),
        views=[directory.follower],
        figures=metrics.figures(quarantine),
        effects={"registry": ipam.addresses.follower},
        jobs={"follow registry": ipam.addresses.follow, "forget addresses": ipam.addresses.forget},
    )


def main() -> None:
    serve(build)


if __name__ == "__main__":
    main()
