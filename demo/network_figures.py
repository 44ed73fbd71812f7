"""What `make demo-network FIGURES=200` measures: how long a revoked device's packets still pass."""

import math
import time
from dataclasses import dataclass
from typing import Final

from rich.progress import track
from rich.table import Table

from demo.__main__ import Differs, console, said, title
from demo.network_site import ALICE, WEB, Site, until
from demo.ping import Ping
from guardhouse.registry.v1 import registry_pb2 as registry

EVERY_SECONDS: Final = 0.001
SILENCE_SECONDS: Final = 0.25
"""After so long without an answer none comes any more."""
ANSWER_SECONDS: Final = 10.0


def measure(site: Site, count: int) -> None:
    """Revokes the laptop so many times without --wait, and as often with it, and prints a table."""
    title(f"{count} revocations without --wait, and as many with it")
    laptop = site.laptop
    laptop.start()
    laptop.sign_in(site.issuer.sign_in(ALICE))
    registration_id = laptop.current()
    # Its tunnel stays as it is. An agent would notice the revocation as well, and take it down.
    laptop.stop()
    with Ping("from the laptop", laptop.at, WEB, EVERY_SECONDS) as ping:
        rounds = Rounds(site, ping, registration_id)
        plain = [rounds.revoked(wait=False) for _ in track(range(count), "without --wait", console=console)]
        waited = [rounds.revoked(wait=True) for _ in track(range(count), "with --wait", console=console)]
    table = Table("from the answer to the first lost packet", "p50", "p99", "max", header_style="bold")
    for name, rounds_made in (("without --wait", plain), ("with --wait", waited)):
        delays = sorted(it.lost - it.answer for it in rounds_made)
        table.add_row(name, *(f"{1000 * rank(delays, part):.1f} ms" for part in (0.5, 0.99, 1.0)))
    console.print(table)
    late = sum(it.late for it in waited)
    if late:
        raise Differs(f"{late} packets passed that were sent after the command with --wait had returned")
    said(f"with --wait, packets that passed after the return: {late}, in {count} revocations")
    said(f"packets are {1000 * EVERY_SECONDS:.0f} ms apart; less than 0 is before the answer")


@dataclass(frozen=True, slots=True)
class Round:
    """A revocation. Times are of time.monotonic()."""

    answer: float
    lost: float
    """When the first packet was sent of those that are lost."""
    late: int
    """How many packets passed that were sent after the answer."""


class Rounds:
    """Revoking and restoring, again and again."""

    def __init__(self, site: Site, ping: Ping, registration_id: str) -> None:
        self._site = site
        self._ping = ping
        self._registration_id = registration_id

    def revoked(self, *, wait: bool) -> Round:
        self._connect()
        ids = [self._registration_id]
        organization_id = self._site.network.organization_id
        if wait:
            self._site.admin("registrations", "revoke", self._registration_id, "--wait")
        else:
            self._site.client.registrations.RevokeRegistrations(
                registry.RevokeRegistrationsRequest(organization_id=organization_id, registration_ids=ids)
            )
        answer = time.monotonic()
        until("no answer comes any more", lambda: time.monotonic() > self._ping.last_answered() + SILENCE_SECONDS)
        found = Round(answer, self._ping.first_lost(), self._ping.passed(answer))
        self._site.client.registrations.UnrevokeRegistrations(
            registry.UnrevokeRegistrationsRequest(organization_id=organization_id, registration_ids=ids)
        )
        return found

    def _connect(self) -> None:
        until("the gateway has its peer", lambda: self._site.gateway.peers() == 1)
        if self._ping.answered_after(time.monotonic() - SILENCE_SECONDS, 0) is None:
            self._site.laptop.shake_hands()
        if self._ping.answered_after(time.monotonic(), ANSWER_SECONDS) is None:
            raise Differs("the laptop does not come back")


def rank(values: list[float], part: float) -> float:
    """The value of sorted ones that so great a part does not exceed."""
    return values[math.ceil(part * len(values)) - 1]
