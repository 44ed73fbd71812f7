"""The command line as a whole: its global options, and where every command lives."""

import importlib
import itertools
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from guardhouse.cli.problems import KNOWN, report
from guardhouse.profile import PROFILE_VARIABLE


class Place(NamedTuple):
    """Where a command, or a group of commands, is: an attribute of a module beside this one."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "status": Place(
        "status", "status", "Say which services answer, and how fast; exits with 1 unless all are serving."
    ),
    "organizations": Place("organizations", "app", "The tenants of the installation."),
    "keys": Place("organizations", "keys", "API keys: what operators, gateways and scripts call with."),
    "identity-providers": Place("enrollment", "identity_providers", "Where people sign in (OpenID Connect)."),
    "scim": Place("scim", "app", "How identity providers provision users and groups (SCIM 2.0)."),
    "service-tokens": Place("enrollment", "service_tokens", "Credentials of machines."),
    "enrollment-policies": Place("enrollment_policies", "app", "Who may enroll a device."),
    "rule-groups": Place("rule_groups", "app", "Rules that enrollment policies share."),
    "users": Place("users", "app", "People who have authenticated at least once."),
    "held-actions": Place("held_actions", "app", "What would happen to many users at once, and waits for approval."),
    "seats": Place("seats", "app", "How many seats are taken, by whom, since when and until when."),
    "devices": Place("devices", "app", "Machines, told apart by the hardware id that they claim."),
    "registrations": Place("devices", "registrations", "A user or service token on a device, with key and addresses."),
    "profiles": Place("device_profiles", "app", "What clients are told, by whose they are and what they run."),
    "addresses": Place("addresses", "app", "Who holds which virtual address."),
    "subnets": Place("subnets", "app", "The networks that addresses are given out from."),
    "ip-profiles": Place("ip_profiles", "app", "Who gets an address from which subnet."),
    "policies": Place("policies", "app", "What traffic is allowed, and how old a session may be for it."),
    "lists": Place("lists", "app", "Named lists of addresses, hosts and the like, which policies share."),
    "applications": Place("applications", "app", "Who may sign in to what, and for how long."),
    "device-sessions": Place("applications", "device_sessions", "When the session of a device is enough for those."),
    "signing-keys": Place("applications", "signing_keys", "The keys that the tokens of applications are checked with."),
    "sessions": Place("sessions", "app", "How long ago the holder of a registration authenticated."),
    "check": Place("checks", "check", "Decide whether a registration may use what a policy covers."),
    "checks": Place("checks", "app", "Decide on traffic, or on many at once."),
    "explain": Place("explain", "app", "Say why, and what would change it."),
    "gateway": Place("gateway", "app", "What admits devices to a network, here, by what the registry says."),
    "audit": Place("audit", "app", "Who did what to which object, and whether the log is what was written."),
    "login": Place("login", "login", "Sign in and print the ID token, for scripts."),
    "enroll": Place(
        "enroll", "enroll", "Enroll this machine with a fresh key; its token and key stay on this machine."
    ),
    "agent": Place("agent", "app", "Keep this machine enrolled and connected, until it is stopped."),
    "mdm": Place("mdm", "app", "The file by which device management sets up clients."),
    "device": Place("device", "app", "This machine's own registration, with the token that enrolling has kept."),
}


EMPTIED = frozenset({"--description"})
"""The options whose value may be empty."""


class Deferred(TyperCommand):
    """A command that is known by name and help, and imported when it is used: no --help waits for gRPC."""

    def __init__(self, name: str, place: Place) -> None:
        super().__init__(name, help=place.help)
        self.place = place

    def load(self) -> Any:
        """The command, or the group of commands."""
        found = getattr(importlib.import_module(f"guardhouse.cli.{self.place.module}"), self.place.attribute)
        holder = typer.Typer()
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=self.name, help=self.help)
        else:
            holder.command(self.name, help=self.help)(found)
        return typer.main.get_group(holder).commands[str(self.name)]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)


class Commands(TyperGroup):
    """The commands, with one place where their failures become a line for people."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in COMMANDS.items():
            self.add_command(Deferred(name, place))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # Whoever completes a line has not finished it.
            refuse_empty(args)
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            # What is still buffered may find that nobody reads; at the interpreter's end that would be a complaint.
            sys.stdout.flush()
        except BrokenPipeError:  # Whoever reads has seen enough; Typer ends quietly.
            raise
        except KNOWN as error:
            report(error)
            raise typer.Exit(1) from None
        return result


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


def refuse_empty(args: list[str]) -> None:
    """Raises BadParameter for an empty value: mostly that of a variable which is not set, as in `--user "$WHO"`.

    Left out, many an option means everybody, or no limit; whoever passes one meant something else.
    """
    for before, word in itertools.pairwise(("", *args)):
        name, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if not value and (equals or not word) and name not in EMPTIED:
            hint = name if name.startswith("-") else "an argument"
            raise typer.BadParameter("it is empty; is a variable not set?", param_hint=hint)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

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
        bool, typer.Option("--json", help="Print JSON: one document, with the names of the contract.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Guardhouse from the command line. The options below may stand anywhere.

    The API key is that of GUARDHOUSE_API_KEY, else what the profile's key_file holds.
    """
    from guardhouse.cli.invocation import Invocation

    ctx.obj = Invocation(profile, organization, as_json)
    ctx.call_on_close(ctx.obj.close)
