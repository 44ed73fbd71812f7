"""The use cases of identity, an object for each resource. Each transaction is a function of its own."""

from collections.abc import Awaitable, Callable

from guardhouse.clock import Clock
from guardhouse_services.breaker.usecases import Decisions
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.identity.usecases.api_keys import ApiKeys
from guardhouse_services.identity.usecases.authentications import Authentications
from guardhouse_services.identity.usecases.breaker import BREAKER
from guardhouse_services.identity.usecases.enrollment_policies import EnrollmentPolicies
from guardhouse_services.identity.usecases.enrollments import Enrollments
from guardhouse_services.identity.usecases.held_actions import carry_out
from guardhouse_services.identity.usecases.identity_providers import IdentityProviders
from guardhouse_services.identity.usecases.organizations import Organizations
from guardhouse_services.identity.usecases.resolver import ResolveIntent, Resolver
from guardhouse_services.identity.usecases.rule_groups import RuleGroups
from guardhouse_services.identity.usecases.scim import Scim
from guardhouse_services.identity.usecases.seat_expiration import SeatExpiration
from guardhouse_services.identity.usecases.seat_ledger import SeatLedger
from guardhouse_services.identity.usecases.service_tokens import ServiceTokens
from guardhouse_services.identity.usecases.users import Users
from guardhouse_services.identity.usecases.verifier import Verifier, VerifyIdToken

__all__ = ["Identity", "ResolveIntent", "VerifyIdToken"]


class Identity:
    """Who may enroll and who holds a seat."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        master_key: MasterKey,
        verify_id_token: VerifyIdToken,
        resolve_intent: ResolveIntent,
    ) -> None:
        verifier = Verifier(clock, database, verify_id_token)
        self.organizations = Organizations(database)
        self.api_keys = ApiKeys(database, master_key)
        self.identity_providers = IdentityProviders(database)
        self.service_tokens = ServiceTokens(database, master_key)
        self.enrollment_policies = EnrollmentPolicies(database, verifier)
        self.rule_groups = RuleGroups(database)
        self.users = Users(database)
        self.held_actions = Decisions(database, BREAKER, carry_out)
        self.scim = Scim(database, master_key)
        self.enrollments = Enrollments(database, verifier)
        self.authentications = Authentications(database, verifier)
        self.resolver = Resolver(database, resolve_intent)
        self.seat_ledger = SeatLedger(database)
        self.seat_expiration = SeatExpiration(database)
        self.ensure_admin_key: Callable[[], Awaitable[str]] = self.api_keys.ensure_admin_key
        """The bearer of the installation's first ADMIN key, or an empty string once that key is revoked."""
