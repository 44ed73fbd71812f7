"""Gateways."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from guardhouse.cli import output
from guardhouse.cli.invocation import Context
from guardhouse.clock import SystemClock
from guardhouse.gateway.claim import InterfaceTaken
from guardhouse.gateway.http import HttpServer
from guardhouse.gateway.metrics import pages
from guardhouse.gateway.uapi import FOLDER, Interface, InterfaceUnavailable
from guardhouse.gateway.wireguard import Gateway, parse_max_staleness
from guardhouse.registry.v1 import registry_pb2 as pb

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_gateways(ctx: Context) -> None:
    """List the gateways that were heard of within a day, and how many changes each is behind."""
    it = ctx.obj
    response = it.client.gateways.ListGateways(pb.ListGatewaysRequest(organization_id=it.organization_id))
    if it.as_json:
        output.print_json(response)
    else:
        output.print_table(response.gateways, "name live shared lag applied.revision seen_time api_key_id")


@app.command("wireguard")
def run_wireguard(
    ctx: Context,
    interface: Annotated[str, typer.Option(metavar="NAME", help="The interface; it belongs to this command alone.")],
    name: Annotated[
        str, typer.Option(help="What it is known by, its own among the gateways. Default: HOST/INTERFACE.")
    ] = "",
    max_staleness: Annotated[
        str, typer.Option(metavar="DURATION", help="How old what is known may be, from 2s to 24h.")
    ] = "30s",
    when_stale: Annotated[
        Literal["remove", "keep"],
        typer.Option(help="When it is older: admit nobody until the registry is heard of again, or go on with it."),
    ] = "remove",
    sockets: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where interfaces in user space have their sockets.")
    ] = FOLDER,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what it knows in this file, and start from it.")
    ] = None,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz there. Default: nowhere.")
    ] = "",
) -> None:
    """Keep the peers of a WireGuard interface equal to the active registrations, until it is stopped.

    It needs a GATEWAY key of one organization. When it ends the peers stay as they are.
    """
    it = ctx.obj
    address = _address(http)
    gateway = Gateway(
        dataclasses.replace(it.client.profile, organization_id=it.organization_id),
        Interface(interface, sockets),
        SystemClock(),
        name or f"{socket.gethostname()}/{interface}",
        parse_max_staleness(max_staleness),
        when_stale,
        snapshot,
    )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        asyncio.run(_until_stopped(gateway, address))
    except (InterfaceTaken, InterfaceUnavailable) as error:
        output.error(str(error))
        raise typer.Exit(1) from None


async def _until_stopped(gateway: Gateway, address: tuple[str, int] | None) -> None:
    running = asyncio.ensure_future(_run(gateway, address))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(gateway: Gateway, address: tuple[str, int] | None) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if address is not None:
            await stack.enter_async_context(HttpServer(*address, pages(gateway)))
        await gateway.run()


def _address(text: str) -> tuple[str, int] | None:
    """Raises BadParameter."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 1 << 16:
        raise typer.BadParameter("it is HOST:PORT, such as 127.0.0.1:7431", param_hint="--http")
    return host.removeprefix("[").removesuffix("]"), int(port)
