"""Identity as a process: `python -m guardhouse_services.identity`."""

from guardhouse.clock import Clock
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.identity.v1 import identity_pb2_grpc as rpc
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Effects, Freshness
from guardhouse_services.identity import metrics
from guardhouse_services.identity.gateways import show
from guardhouse_services.identity.oidc import Issuers
from guardhouse_services.identity.scim.http import route
from guardhouse_services.identity.scim.tally import Tally
from guardhouse_services.identity.servicer import IdentityServicer
from guardhouse_services.identity.store.tables import metadata
from guardhouse_services.identity.usecases import Identity, effects
from guardhouse_services.identity.usecases.snapshot import snapshot
from guardhouse_services.migrate import migrate
from guardhouse_services.node import Node
from guardhouse_services.paging import Pages
from guardhouse_services.peers import Peers
from guardhouse_services.rate_limit import RateLimit
from guardhouse_services.run import serve

SERVICE = "identity"


def build(settings: Settings, clock: Clock) -> Node:
    """A replica, ready to be entered."""
    master_key = MasterKey.read(settings.key_path)
    database = Database(settings.database(SERVICE), clock, SERVICE, pb.Change)
    migrate(database.engine, SERVICE)
    peers = Peers(settings, SERVICE)
    registry, ipam = peers.channel("registry"), peers.channel("ipam")
    # What any replica wrote comes by the feed, so a replica follows its own service as well.
    own = rpc.IdentityFeedServiceStub(peers.channel(SERVICE))
    directory = Directory(clock)
    directory.follower = Follower(f"{SERVICE} directory", own.Watch, pb.WatchRequest, directory.view, clock)
    registrations = Follower(
        f"{SERVICE} registrations",
        registry_pb2_grpc.RegistryFeedServiceStub(registry).Watch,
        registry_pb2.WatchRequest,
        Effects(database, "registry", effects.follow_registry, effects.seen_in_registry, effects.missing_in_registry),
        clock,
    )
    addresses = Follower(
        f"{SERVICE} addresses",
        ipam_pb2_grpc.IpamFeedServiceStub(ipam).Watch,
        ipam_pb2.WatchRequest,
        Effects(database, "ipam", effects.follow_ipam, effects.held_in_ipam, effects.missing_in_ipam),
        clock,
    )
    enrollments = registry_pb2_grpc.EnrollmentServiceStub(registry)

    async def resolve_intent(organization_id: str, intent_id: str) -> int:
        request = registry_pb2.ResolveIntentRequest(organization_id=organization_id, intent_id=intent_id)
        return (await enrollments.ResolveIntent(request)).outcome

    issuers, tally = Issuers(), Tally()
    identity = Identity(clock, database, master_key, issuers.verify, resolve_intent)
    feed = Feed(database, pb, snapshot, settings.poll_seconds, show)
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
        freshness=Freshness(database, SERVICE, [(SERVICE, directory.follower)], ["registry", "ipam"]),
        tables=metadata,
        contract=pb.DESCRIPTOR,
        servicer=IdentityServicer(clock, identity, Pages(master_key), feed, audit),
        views=[directory.follower],
        figures=metrics.figures,
        gauges=metrics.gauges(tally),
        effects={"registry": registrations, "ipam": addresses},
        jobs={
            "resolve intents": identity.resolver.run,
            "forget": identity.resolver.forget,
            "expire seats": identity.seat_expiration.run,
            "carry out held actions": identity.held_actions.run,
            "forget SCIM": identity.scim.run,
        },
        routes=[
            route(
                identity.scim,
                settings.scim_base_url,
                RateLimit(settings.anonymous_rate, settings.anonymous_burst),
                tally,
            )
        ],
        close=[issuers.close],
    )


def main() -> None:
    serve(build)


if __name__ == "__main__":
    main()
