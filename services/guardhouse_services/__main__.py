"""`guardhouse-server`: the four services in one process, or what one needs to know to run them apart."""

import asyncio
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from guardhouse.clock import SystemClock
from guardhouse.common.v1 import access_pb2
from guardhouse.identity.v1 import identity_pb2
from guardhouse.profile import Profile
from guardhouse_services import database
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.config import SERVICES, Settings, describe
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.identity.__main__ import build as identity
from guardhouse_services.identity.usecases.api_keys import ApiKeys
from guardhouse_services.ipam.__main__ import build as ipam
from guardhouse_services.migrate import migrate
from guardhouse_services.node import Node
from guardhouse_services.registry.__main__ import build as registry
from guardhouse_services.run import Build, mistakes, serve
from guardhouse_services.run import prepare as make_files
from guardhouse_services.session.__main__ import build as session

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


BUILDS: dict[str, Build] = {"identity": identity, "registry": registry, "ipam": ipam, "session": session}


@app.command()
def run(
    services: Annotated[
        list[str] | None, typer.Argument(help="identity, registry, ipam, session. Default: all.")
    ] = None,
) -> None:
    """Serve until a signal comes. With all four, make an admin key and a client profile as well."""
    for name in services or ():
        if name not in SERVICES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(SERVICES)}")
    serve(*(BUILDS[name] for name in services or SERVICES), started=None if services else welcome)


@app.command()
def settings(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print every setting: its variable, its default and its meaning."""
    rows = describe()
    if as_json:
        typer.echo(
            json.dumps([dict(zip(("variable", "default", "meaning"), row, strict=True)) for row in rows], indent=2)
        )
        return
    table = Table("variable", "default", "meaning", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@app.command()
def prepare(
    names: Annotated[
        list[str] | None, typer.Option("--name", help="A name or address that clients reach the services by.")
    ] = None,
) -> None:
    """Make the installation's key and certificates below GUARDHOUSE_VAR, for services that run apart from it.

    What is there stays; certificates that have less than 30 days left or lack a name are made anew.
    """
    found = Settings()
    make_files(found, SystemClock(), names or ())
    typer.echo(f"{_shown(found.key_path)} and {_shown(found.tls_path)} are ready")


@app.command("admin-key")
def admin_key(
    another: Annotated[bool, typer.Option("--new", help="Make another one, which only this answer shows.")] = False,
) -> None:
    """Print the installation's first ADMIN key.

    It takes the installation's key and identity's database: whoever has both can do this whatever keys were lost.
    """
    found = Settings()
    its_database = Database(found.database("identity"), SystemClock(), "identity", identity_pb2.Change)
    migrate(its_database.engine, "identity")
    keys = ApiKeys(its_database, MasterKey.read(found.key_path))
    key = asyncio.run(_another_key(keys) if another else keys.ensure_admin_key())
    its_database.close()
    if not key:
        raise typer.TyperException("the first ADMIN key has been revoked and does not come back; try --new")
    typer.echo(key)


@app.command("new-epoch")
def new_epoch(service: Annotated[str, typer.Argument(help="The service whose database was restored.")]) -> None:
    """After a restore from a backup, before the service starts: begin another history."""
    if service not in SERVICES:
        raise typer.BadParameter(f"{service!r} is none of {', '.join(SERVICES)}")
    contract = importlib.import_module(f"guardhouse.{service}.v1.{service}_pb2")
    restored = Database(Settings().database(service), SystemClock(), service, contract.Change)
    asyncio.run(restored.write(database.new_epoch))
    restored.close()
    typer.echo(f"{service} begins another history; followers will load it anew")


async def _another_key(keys: ApiKeys) -> str:
    """An ADMIN key of the installation; the audit log names the console as who made it."""
    console = Caller("console")
    call = Call(console, "guardhouse-server admin-key", "", RequestKey("", console.name, "", "", b""))
    _, secret, _ = await keys.create(call, "", "made at the console", access_pb2.ROLE_ADMIN, None)
    return secret


async def welcome(settings: Settings, nodes: Sequence[Node]) -> None:
    """Writes the admin's key and the client's profile, and says what to type next."""
    for node in nodes:
        await node.loaded()
    key = await nodes[0].servicer.identity.ensure_admin_key()  # type: ignore[attr-defined]
    profile = write_profile(settings, key)
    Console(stderr=True, highlight=False).print(
        f"\n[bold]Guardhouse is running.[/bold] Its files are in {_shown(settings.var)}; press Ctrl-C to stop it.\n"
        "In another terminal:\n\n"
        f"  export GUARDHOUSE_PROFILE={_shown(profile)} PATH=$PWD/.venv/bin:$PATH\n"
        "  guardhouse status\n"
        "  guardhouse organizations create Example --seat-limit 10\n"
        "  guardhouse --help\n"
    )


def write_profile(settings: Settings, key: str) -> Path:
    """The client's profile beside the databases, and the admin's key, unless it was revoked."""
    folder = settings.var
    if key:
        _write_private(folder / "admin.key", f"{key}\n")
    addresses = {service: f"{settings.host}:{settings.public_port(service)}" for service in SERVICES}
    profile = Profile(**addresses, ca=settings.tls_path / "ca.crt", key_file=folder / "admin.key")
    profile.write(folder / "client.new")
    return (folder / "client.new").rename(folder / "client.toml")


def _shown(path: Path) -> str:
    """As short as it can be typed."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and readable by its owner only."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)


def main() -> None:
    with mistakes():
        app()


if __name__ == "__main__":
    main()
