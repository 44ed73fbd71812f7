"""The command line as a whole: its global options, and where every command lives."""

import importlib.metadata
import itertools
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guardhouse.cli import addresses, devices, enroll, enrollment, organizations, policies, status, users
from guardhouse.cli.invocation import Invocation
from guardhouse.cli.problems import KNOWN, report
from guardhouse.profile import PROFILE_VARIABLE


class Commands(TyperGroup):
    """The commands, with one place where their failures become a line for people."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # Whoever reads has seen enough; Typer ends quietly.
            raise
        except KNOWN as error:
            report(error)
            raise typer.Exit(1) from None


def hoist(args: list[str]) -> list[str]:
    """The arguments with the global options in front: they may stand anywhere before a `--`."""
    front, rest = [], []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in ("--profile", "--organization", "-o"):
            front += [word, *itertools.islice(words, 1)]
        elif word == "--json" or word.startswith(("--profile=", "--organization=", "-o")):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(status.status)
app.add_typer(organizations.app, name="organizations")
app.add_typer(organizations.keys, name="keys")
app.add_typer(enrollment.identity_providers, name="identity-providers")
app.add_typer(enrollment.service_tokens, name="service-tokens")
app.add_typer(enrollment.policies, name="enrollment-policies")
app.add_typer(users.app, name="users")
app.command()(users.seats)
app.add_typer(devices.app, name="devices")
app.add_typer(devices.registrations, name="registrations")
app.add_typer(addresses.app, name="addresses")
app.add_typer(policies.app, name="policies")
app.add_typer(policies.sessions, name="sessions")
app.command()(policies.check)
app.command()(enroll.enroll)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"guardhouse {importlib.metadata.version('guardhouse')}")
        raise typer.Exit


@app.callback()
def guardhouse(
    ctx: typer.Context,
    profile: Annotated[
        Path | None,
        typer.Option(envvar=PROFILE_VARIABLE, help="Where the services answer: a TOML file. Default: var/client.toml."),
    ] = None,
    organization: Annotated[
        str,
        typer.Option(
            "--organization",
            "-o",
            envvar="GUARDHOUSE_ORGANIZATION",
            help="The organization's id. Default: the profile's, else the only one there is.",
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: the answer as protobuf has it.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Guardhouse from the command line. The options below may stand anywhere.

    The API key is that of GUARDHOUSE_API_KEY, else what the profile's key_file holds.
    """
    ctx.obj = Invocation(profile, organization, as_json)
    ctx.call_on_close(ctx.obj.close)
