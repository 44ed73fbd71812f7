"""The file by which device management (MDM) sets up clients."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from guardhouse import mdm
from guardhouse.cli import output
from guardhouse.cli.device import write_secret
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import ClientId, ClientSecret, ClientSecretFile

app = typer.Typer(no_args_is_help=True)

MAX_DIGITS = 18
"""Of an integer that any key may have; longer ones stay a string, which the key refuses."""


@app.command("check")
def check(
    ctx: Context, file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)]
) -> None:
    """Say what a file means, and what is probably not meant; exits with 1 for one that clients refuse."""
    with file.open("rb") as opened, _faults_told():
        found = mdm.parse(opened.read(mdm.MAX_SIZE + 1))
    warnings = list(mdm.advice(found))
    if mdm.has_secrets(found) and os.name == "posix" and file.stat().st_mode & stat.S_IROTH:
        warnings.append(f"{file} holds a secret, and everybody on this machine may read it")
    rows = list(mdm.described(found))
    if ctx.obj.as_json:
        settings = [dict(zip(("key", "value", "meaning"), row, strict=True)) for row in rows]
        output.print_json({"settings": settings, "warnings": warnings})
    else:
        output.print_rows(("key", "value", "meaning"), rows)
    for warning in warnings:
        output.note(f"warning: {warning}")


@app.command("render")
def render(
    ctx: Context,
    organizations: Annotated[
        list[str],
        typer.Argument(
            metavar="ORGANIZATION[=NAME]...",
            help='What devices may join, and what people choose it by: org_…="Production environment".',
        ),
    ],
    multi_user: Annotated[
        bool, typer.Option("--multi-user", help="Each person who logs in to Windows registers.")
    ] = False,
    pre_login: Annotated[
        str,
        typer.Option(
            metavar="ORGANIZATION", help="While nobody is logged in: the organization of the service token below."
        ),
    ] = "",
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of every organization, such as auto_connect=10."),
    ] = None,
    no_auth_no_internet: Annotated[
        bool, typer.Option("--no-auth-no-internet", help="Without a registration there is no internet.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--output", dir_okay=False, help="The file to write. Default: standard output.")
    ] = None,
) -> None:
    """Write a file. A service token without --pre-login is what devices join with."""
    secret = client_secret_file.read().strip() if client_secret_file else client_secret
    if bool(client_id) != bool(secret) or (pre_login and not client_id):
        raise typer.BadParameter("--client-id and a secret come together, and --pre-login needs both")
    of_all = dict(_setting(text) for text in settings or ())
    token: dict[str, Any] = {"auth_client_id": client_id, "auth_client_secret": secret} if client_id else {}
    if token and not pre_login:
        of_all.update(token)
    named = [text.partition("=") for text in organizations]
    made = mdm.Mdm(
        multi_user=multi_user,
        pre_login=mdm.PreLogin(organization=pre_login, **token) if pre_login else None,
        configs=tuple(mdm.Settings(organization=it, display_name=name, **of_all) for it, _, name in named),
        no_auth_no_internet=no_auth_no_internet,
    )
    with _faults_told():
        rendered = mdm.render(made)
    if ctx.obj.as_json:
        output.print_json({"mdm": rendered.decode()})
    elif to is not None:
        write_secret(to, rendered.decode())
        output.note(f"{to} is written; only you can read it.")
    else:
        print(rendered.decode(), end="")
    for warning in mdm.advice(made):
        output.note(f"warning: {warning}")


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except mdm.MdmInvalid as error:
        for fault in error.faults:
            output.error(str(fault))
        raise typer.Exit(1) from None


def _setting(text: str) -> tuple[str, Any]:
    """A key and its value, which is a word of the file's: true, false, an integer, or else a string."""
    key, equals, value = text.partition("=")
    if key not in mdm.KEYS or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE with one of {', '.join(mdm.KEYS)}", param_hint="--set")
    if value in ("true", "false"):
        return key, value == "true"
    return key, int(value) if value.isascii() and value.isdecimal() and len(value) <= MAX_DIGITS else value
