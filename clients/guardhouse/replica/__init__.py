"""What decisions are made by, kept up to date by three feeds: for the session server and for the checker."""

from guardhouse.replica.coverage import Coverage, refusal, signs_in
from guardhouse.replica.people import IdentityState
from guardhouse.replica.policies import PolicyState
from guardhouse.replica.registrations import Posture, RegistryState, Subject, posture_facts
from guardhouse.replica.state import (
    State,
    TrafficFacts,
    cover_traffic,
    judge_traffic,
    parse_max_staleness,
)

__all__ = [
    "Coverage",
    "IdentityState",
    "PolicyState",
    "Posture",
    "RegistryState",
    "State",
    "Subject",
    "TrafficFacts",
    "cover_traffic",
    "judge_traffic",
    "parse_max_staleness",
    "posture_facts",
    "refusal",
    "signs_in",
]
