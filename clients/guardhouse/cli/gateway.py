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
from guardhouse.gateway.uapi import FOLDER, Interface
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
        output.print_table(response.gateways, "name live lag applied.revision seen_time api_key_id")


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
) -> None:
    """Keep the peers of a WireGuard interface equal to the active registrations, until it is stopped.

    It needs a GATEWAY key of one organization. When it ends the peers stay as they are.
    """
    it = ctx.obj
    gateway = Gateway(
        dataclasses.replace(it.client.profile, organization_id=it.organization_id),
        Interface(interface, sockets),
        SystemClock(),
        name or f"{socket.gethostname()}/{interface}",
        parse_max_staleness(max_staleness),
        when_stale,
    )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    asyncio.run(_until_stopped(gateway))


async def _until_stopped(gateway: Gateway) -> None:
    running = asyncio.ensure_future(gateway.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
