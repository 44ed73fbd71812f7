"""What session tells Prometheus: what this replica decides by."""

from collections.abc import Callable, Iterator

from guardhouse.durations import SECOND
from guardhouse_services.metrics import Gauge
from guardhouse_services.session.replica import Replica


def gauges(replica: Replica) -> Callable[[], Iterator[Gauge]]:
    def read() -> Iterator[Gauge]:
        registrations = sum(len(state.registrations) for state in replica.registrations.states.values())
        policies = sum(len(state.policies) for state in replica.policies.states.values())
        staleness = replica.staleness()
        age = float("inf") if staleness is None else staleness / SECOND
        yield Gauge("guardhouse_session_registrations", "Registrations that this replica knows.", {(): registrations})
        yield Gauge("guardhouse_session_policies", "Policies that this replica knows.", {(): policies})
        yield Gauge("guardhouse_session_staleness_seconds", "How old what checks are decided by may be.", {(): age})
        yield Gauge(
            "guardhouse_session_max_staleness_seconds",
            "How old that may be before checks answer STATE_STALE.",
            {(): replica.max_staleness / SECOND},
        )
        yield Gauge(
            "guardhouse_session_degraded_answers",
            "Checks that a policy let answer by older state than that.",
            {(): replica.degraded_answers},
            is_counter=True,
        )

    return read
