"""Runs session alone, until it is told to stop."""

from guardhouse.clock import Clock
from guardhouse.durations import parse_duration
from guardhouse.envoy.v1 import authorization_pb2
from guardhouse.errors import DurationInvalid
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.replica import parse_max_staleness
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.session.v1 import session_pb2_grpc as rpc
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Freshness
from guardhouse_services.migrate import migrate
from guardhouse_services.node import Node
from guardhouse_services.paging import Pages
from guardhouse_services.peers import Peers
from guardhouse_services.run import serve
from guardhouse_services.session import jwks, metrics
from guardhouse_services.session.envoy import EnvoyServicer
from guardhouse_services.session.gateways import show
from guardhouse_services.session.replica import IdentityState, Replica
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.store.tables import metadata
from guardhouse_services.session.usecases import Session, check_quarantine, snapshot

SERVICE = "session"


def build(settings: Settings, clock: Clock) -> Node:
    """One replica, not started yet. Raises DurationInvalid for a max_staleness that nobody should run with, and for a
    quarantine that a policy forbids."""
    max_staleness = parse_max_staleness(settings.max_staleness)
    quarantine = parse_duration(settings.quarantine, "quarantine")
    master_key = MasterKey.read(settings.key_path)
    database = Database(settings.database(SERVICE), clock, SERVICE, pb.Change)
    migrate(database.engine, SERVICE)
    try:
        check_quarantine(database, quarantine)
    except DurationInvalid:
        database.close()
        raise
    peers = Peers(settings, SERVICE)
    directory = Directory(clock, IdentityState)
    replica = Replica(clock, directory, max_staleness, max_open=quarantine)
    directory.trust = replica.trust
    identity = identity_pb2_grpc.IdentityFeedServiceStub(peers.channel("identity"))
    registry = registry_pb2_grpc.RegistryFeedServiceStub(peers.channel("registry"))
    # What any replica wrote comes by the feed, so a replica follows its own service as well.
    own = rpc.SessionFeedServiceStub(peers.channel(SERVICE))
    replica.identity = directory.follower = Follower(
        "session directory", identity.Watch, identity_pb2.WatchRequest, directory.view, clock
    )
    replica.registry = Follower(
        "session registrations", registry.Watch, registry_pb2.WatchRequest, replica.registrations, clock
    )
    replica.own = Follower("session policies", own.Watch, pb.WatchRequest, replica.policies, clock)
    feed = Feed(database, pb, snapshot, settings.poll_seconds, show)
    audit = Audit(clock, database, SERVICE, pb, master_key, settings)
    views = [("identity", replica.identity), ("registry", replica.registry), (SERVICE, replica.own)]

    def max_age() -> int:
        """How old state may be for somebody to be answered by it: a policy may stay open for longer than others."""
        policies = (policy for state in replica.policies.states.values() for policy in state.policies.values())
        return max(max_staleness, max((policy.max_open for policy in policies), default=0))

    authentication = identity_pb2_grpc.AuthenticationServiceStub(peers.channel("identity"))
    session = Session(clock, database, directory, replica, authentication, master_key, settings.token_issuer)
    servicer = SessionServicer(clock, session, Pages(master_key), feed, audit)
    return Node(
        service=SERVICE,
        settings=settings,
        clock=clock,
        database=database,
        peers=peers,
        directory=directory,
        feed=feed,
        audit=audit,
        freshness=Freshness(database, SERVICE, views=views, effects=()),
        tables=metadata,
        contract=pb.DESCRIPTOR,
        servicer=servicer,
        guests=[(authorization_pb2.DESCRIPTOR, EnvoyServicer(servicer.CheckTraffic))],
        views=replica.followers,
        jobs={"rotate signing keys": session.signing_keys.run},
        devices=replica.device,
        ready=replica.followers,
        max_staleness=max_age,
        gauges=metrics.gauges(replica),
        routes=[jwks.route(clock, directory, replica, session.application_tokens)],
    )


def main() -> None:
    serve(build)


if __name__ == "__main__":
    main()
