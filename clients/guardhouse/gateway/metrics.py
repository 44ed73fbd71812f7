"""What a gateway tells those who watch it. docs/metrics.md is the list. It needs the extra `cli`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guardhouse.durations import SECOND
from guardhouse.gateway.http import TEXT, Page
from guardhouse.gateway.wireguard import Gateway

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
APPLY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def pages(gateway: Gateway) -> Mapping[str, Page]:
    """Those that the services have, too."""
    metrics = Metrics(gateway)

    def ready() -> tuple[HTTPStatus, str, bytes]:
        reasons = gateway.reasons()
        content = json.dumps({"ready": not reasons, "reasons": reasons}).encode()
        return HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, "application/json", content

    return {
        "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.text()),
        "/healthz": lambda: (HTTPStatus.OK, TEXT, b"ok\n"),
        "/readyz": ready,
    }


class Metrics:
    """The registry of one gateway; several in a process share nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._registry = CollectorRegistry()
        # A series beside each of the library's own, which says when it began, is of no use to anybody here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        for make in (ProcessCollector, PlatformCollector, GCCollector):
            make(registry=self._registry)
        gateway.observe = Histogram(
            "guardhouse_gateway_apply_seconds",
            "How long operations on the interface took, waiting for the one before included.",
            buckets=APPLY_BUCKETS,
            registry=self._registry,
        ).observe
        self._registry.register(_Collector(gateway))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Collector(Collector):
    """Reads what the gateway keeps anyway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterable[Metric]:
        it = self._gateway
        staleness = it.staleness()
        yield from _gauges(
            {
                "peers": ("Peers that the interface is to have.", it.peers),
                "admits": ("Whether what it knows is young enough to admit by.", float(bool(it.admits))),
                "interface_up": ("Whether the interface could be asked the last time.", float(it.reachable)),
                "known_revision": ("The registry's revision up to which it knows everything.", _revision(it.known)),
                "applied_revision": ("The revision up to which the interface has it.", _revision(it.applied)),
                "staleness_seconds": (
                    "How long ago everything that it knows was proven; +Inf for never.",
                    float("inf") if staleness is None else staleness / SECOND,
                ),
                "max_staleness_seconds": ("How old that may be.", it.max_staleness / SECOND),
            }
        )
        yield from _counters(
            {
                "interface_errors": ("How often the interface could not be asked, or refused.", it.errors),
                "handshakes": ("Handshakes that were seen, at most one a minute of each peer.", it.handshakes.heard),
                "set_right": ("Peers that looks at the whole interface had to set right.", it.set_right),
                "resyncs": ("Snapshots that were needed again, after gaps and restores.", it.resyncs),
            }
        )

    def describe(self) -> Iterable[Metric]:
        return ()


def _gauges(figures: dict[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (documentation, value) in figures.items():
        yield GaugeMetricFamily(f"guardhouse_gateway_{name}", documentation, value)


def _counters(figures: dict[str, tuple[str, int]]) -> Iterator[Metric]:
    for name, (documentation, value) in figures.items():
        yield CounterMetricFamily(f"guardhouse_gateway_{name}", documentation, value)


def _revision(position: tuple[str, int] | None) -> int:
    return position[1] if position is not None else 0
