"""The use cases of session, an object for each resource. Each transaction is a function of its own."""

from typing import TYPE_CHECKING

from guardhouse.clock import Clock
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.session.application_tokens import ApplicationTokens
from guardhouse_services.session.replica import Replica
from guardhouse_services.session.session_tokens import SessionTokens
from guardhouse_services.session.usecases.applications import Applications
from guardhouse_services.session.usecases.challenges import Challenges
from guardhouse_services.session.usecases.device_sessions import DeviceSessions
from guardhouse_services.session.usecases.lists import Lists
from guardhouse_services.session.usecases.logins import Logins
from guardhouse_services.session.usecases.policies import Policies, check_quarantine
from guardhouse_services.session.usecases.sessions import Sessions
from guardhouse_services.session.usecases.signing_keys import SigningKeys
from guardhouse_services.session.usecases.snapshot import snapshot
from guardhouse_services.session.usecases.trials import Trials

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub

__all__ = ["Session", "check_quarantine", "snapshot"]


class Session:
    """What may pass, and how old a session may be for it. `identity` is a stub of that service."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        directory: Directory,
        replica: Replica,
        identity: "AuthenticationServiceAsyncStub",
        master_key: MasterKey,
        issuer: str = "",
    ) -> None:
        self.replica = replica
        self.policies = Policies(database, directory, replica)
        self.lists = Lists(database, directory)
        self.applications = Applications(database, directory)
        self.device_sessions = DeviceSessions(database, directory)
        self.signing_keys = SigningKeys(database, directory)
        self.sessions = Sessions(clock, directory, replica, Challenges(clock, master_key), identity)
        self.application_tokens = ApplicationTokens(master_key, issuer)
        self.logins = Logins(
            clock, directory, replica, self.sessions, SessionTokens(master_key), self.application_tokens
        )
        self.trials = Trials(clock, directory, replica)
