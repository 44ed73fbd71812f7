"""Waiting until every gateway has carried out what was changed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from guardhouse.cli import output
from guardhouse.cli.invocation import Invocation
from guardhouse.common.v1 import feed_pb2
from guardhouse.errors import GuardhouseError
from guardhouse.registry.v1 import registry_pb2 as pb

WAIT_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 0.05, 1.0


@contextmanager
def everywhere(it: Invocation, wait: bool) -> Iterator[None]:
    """What is printed within comes first; then it waits, if that is wanted, and exits with 1 where that was in vain."""
    failed = False
    try:
        yield
    except typer.Exit as stop:
        failed = stop.exit_code != 0
    if wait:
        try:
            failed |= not _applied(it)
        except GuardhouseError as error:
            # What was changed is changed, so that nobody can tell is no failure.
            if error.code != "UNIMPLEMENTED":
                raise
            output.note("The registry is older than this command and cannot say which gateways have applied it.")
    if failed:
        raise typer.Exit(1)


def _applied(it: Invocation) -> bool:
    """Waits until every gateway that is live now has applied what this command has changed; says which has not.

    The head is as new as that: the client sends the tokens of its changes along, those of other services included, and
    the registry answers when it has carried them out.
    """
    request = pb.ListGatewaysRequest(organization_id=it.organization_id)
    response = it.client.gateways.ListGateways(request)
    head = response.head
    for gateway in (each for each in response.gateways if not each.live):
        output.note(f"{gateway.name} is not heard of; if its interface is still there, it admits whom it did")
    waiting = {gateway.name for gateway in response.gateways if gateway.live}
    pause, most = PAUSE_SECONDS
    end = time.monotonic() + WAIT_SECONDS
    with output.waiting("Waiting for the gateways ..."):
        while waiting := waiting & {each.name for each in response.gateways if not _has(each, head)}:
            if time.monotonic() > end:
                break
            time.sleep(pause)
            pause = min(pause * 1.5, most)
            response = it.client.gateways.ListGateways(request)
    for name in sorted(waiting):
        output.error(f"{name} has not applied it within {WAIT_SECONDS:.0f} s; see guardhouse gateway list")
    shared = [gateway.name for gateway in response.gateways if gateway.live and gateway.shared]
    for name in shared:
        output.error(f"several gateways have the name {name}, and one may not have applied it; give each its own")
    return not waiting and not shared


def _has(gateway: pb.Gateway, head: feed_pb2.Position) -> bool:
    return gateway.applied.epoch == head.epoch and gateway.applied.revision >= head.revision
