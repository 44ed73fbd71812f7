"""The use cases of session, an object for each resource. Each transaction is a function of its own."""

from guardhouse.clock import Clock
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.session.replica import Replica
from guardhouse_services.session.usecases.challenges import Challenges
from guardhouse_services.session.usecases.lists import Lists
from guardhouse_services.session.usecases.policies import Policies, check_quarantine
from guardhouse_services.session.usecases.sessions import RecordAuthentication, Sessions
from guardhouse_services.session.usecases.snapshot import snapshot
from guardhouse_services.session.usecases.trials import Trials

__all__ = ["RecordAuthentication", "Session", "check_quarantine", "snapshot"]


class Session:
    """What may pass, and how old a session may be for it."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        directory: Directory,
        replica: Replica,
        record_authentication: RecordAuthentication,
        master_key: MasterKey,
    ) -> None:
        self.replica = replica
        self.policies = Policies(database, directory, replica)
        self.lists = Lists(database, directory)
        self.sessions = Sessions(clock, directory, replica, Challenges(clock, master_key), record_authentication)
        self.trials = Trials(clock, directory, replica)
