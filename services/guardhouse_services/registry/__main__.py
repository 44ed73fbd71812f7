"""The registry as a process: `python -m guardhouse_services.registry`."""

from guardhouse.clock import Clock
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ipam.v1 import ipam_pb2_grpc
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Effects, Freshness
from guardhouse_services.migrate import migrate
from guardhouse_services.node import Node
from guardhouse_services.paging import Pages
from guardhouse_services.peers import Peers
from guardhouse_services.registry import metrics
from guardhouse_services.registry.gateways import show
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store.tables import metadata
from guardhouse_services.registry.usecases import Registry
from guardhouse_services.registry.usecases.effects import follow_identity, follow_people
from guardhouse_services.registry.usecases.snapshot import snapshot
from guardhouse_services.run import serve

SERVICE = "registry"


def build(settings: Settings, clock: Clock) -> Node:
    """A replica, ready to be entered."""
    master_key = MasterKey.read(settings.key_path)
    database = Database(settings.database(SERVICE), clock, SERVICE, pb.Change)
    migrate(database.engine, SERVICE)
    peers = Peers(settings, SERVICE)
    identity = peers.channel("identity")
    watch_identity = identity_pb2_grpc.IdentityFeedServiceStub(identity).Watch
    directory = Directory(clock)
    directory.follower = Follower(
        f"{SERVICE} directory", watch_identity, identity_pb2.WatchRequest, directory.view, clock
    )
    effects = Effects(database, "identity", follow_identity)
    removals = Follower(f"{SERVICE} removals", watch_identity, identity_pb2.WatchRequest, effects, clock)
    # It has its own place in the feed: a database of the release before, which knows nobody, begins with a snapshot.
    known = Effects(database, "identity people", follow_people)
    people = Follower(f"{SERVICE} people", watch_identity, identity_pb2.WatchRequest, known, clock)
    registry = Registry(
        clock,
        database,
        master_key,
        directory,
        identity_pb2_grpc.AuthenticationServiceStub(identity),
        ipam_pb2_grpc.AddressServiceStub(peers.channel("ipam")),
    )
    feed = Feed(database, pb, snapshot, settings.poll_seconds, show, registry.gateways.acknowledge)
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
        freshness=Freshness(database, SERVICE, [("identity", directory.follower)], ["identity"]),
        tables=metadata,
        contract=pb.DESCRIPTOR,
        servicer=RegistryServicer(clock, registry, Pages(master_key), feed, audit),
        views=[directory.follower],
        figures=metrics.figures,
        gauges=metrics.gauges(registry.heartbeats, registry.lifetimes),
        effects={"identity": removals, "identity people": people},
        jobs={
            "sweep": registry.enrollments.sweep,
            "report activity": registry.activity.run,
            "delete ended registrations": registry.lifetimes.run,
            "carry out held actions": registry.held_actions.run,
            "forget gateways": registry.gateways.forget,
            "match device profiles": registry.profile_matching.run,
        },
        devices=registry.callers.device,
        close=[registry.heartbeats.close, registry.gateways.close],
    )


def main() -> None:
    serve(build)


if __name__ == "__main__":
    main()
