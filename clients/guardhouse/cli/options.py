"""The options and arguments that several commands have, and what becomes of them."""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli.complete import ids
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.durations import parse_duration
from guardhouse.errors import DurationInvalid


def moment(text: str) -> Timestamp:
    """A time as RFC 3339 has it, without a zone in local time, or a duration back from now by this machine's clock."""
    return _time(text, -1, "back from now")


def later(text: str) -> Timestamp:
    """The same, with a duration from now on."""
    return _time(text, 1, "from now")


def _time(text: str, sign: int, direction: str) -> Timestamp:
    time = Timestamp()
    try:
        time.FromDatetime(datetime.fromisoformat(text).astimezone())
    except ValueError:
        try:
            distance = parse_duration(text, "time")
        except DurationInvalid:
            raise typer.BadParameter(
                f"{text!r} is neither a time, such as 2026-11-21T08:00:00Z, nor a duration {direction}, such as 24h"
            ) from None
        time.GetCurrentTime()
        time.FromMicroseconds(time.ToMicroseconds() + sign * distance)
    return time


NEVER = "never"
"""What is said in place of a duration that has no end."""

Limit = Annotated[int | None, typer.Option(min=1, help="Show at most as many. Default: all.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "--validate-only", help="Say what it would do, and do nothing.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until every gateway has applied it; exits with 1, and says which has not.")
]
Etag = Annotated[str, typer.Option(help="Only if nothing has changed since this etag was read. Default: as of now.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What people read.")]
NewName = Annotated[str | None, typer.Option(help="What people read.")]
Installation = Annotated[bool, typer.Option("--installation", help="What belongs to the whole installation.")]
SeenAfter = Annotated[
    Timestamp | None,
    typer.Option(parser=moment, metavar="TIME", help="Last heard of then or later: a time, or 24h for a day ago."),
]
SeenBefore = Annotated[
    Timestamp | None,
    typer.Option(parser=moment, metavar="TIME", help="Last heard of before then: a time, or 24h for a day ago."),
]
Descending = Annotated[bool, typer.Option("--desc", help="The last first.")]

UserId = Annotated[str, typer.Argument(metavar="USER", autocompletion=ids("users", "email"))]
DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", autocompletion=ids("devices", "claims.display_name"))]
RegistrationId = Annotated[str, typer.Argument(metavar="REGISTRATION", autocompletion=ids("registrations", "ipv4"))]
RegistrationIds = Annotated[
    list[str],
    typer.Argument(
        metavar="REGISTRATION...", autocompletion=ids("registrations", "ipv4"), help="- reads them from standard input."
    ),
]
PolicyId = Annotated[str, typer.Argument(metavar="POLICY", autocompletion=ids("policies"))]
PolicyIds = Annotated[
    list[str],
    typer.Argument(metavar="POLICY...", autocompletion=ids("policies"), help="- reads them from standard input."),
]

ApplicationId = Annotated[str, typer.Argument(metavar="APPLICATION", autocompletion=ids("applications"))]
ClientIp = Annotated[str, typer.Option("--ip", metavar="ADDRESS", help="The client's address, for policies on it.")]
ClientCountry = Annotated[str, typer.Option("--country", help="Where the client is: two letters, such as DE.")]

KeyType = Annotated[Literal["curve25519", "secp256r1"], typer.Option(help="The kind of key; WireGuard's is the first.")]

IdToken = Annotated[
    str | None,
    typer.Option(envvar="GUARDHOUSE_ID_TOKEN", show_envvar=True, help="A person's ID token, at most five minutes old."),
]
IdTokenFile = Annotated[typer.FileText | None, typer.Option(help="A file that holds it; - is standard input.")]
ClientId = Annotated[str | None, typer.Option(help="A service token's client id.")]
ClientSecret = Annotated[
    str | None, typer.Option(envvar="GUARDHOUSE_CLIENT_SECRET", show_envvar=True, help="Its secret.")
]
ClientSecretFile = Annotated[
    typer.FileText | None,
    typer.Option(
        help="A file that holds it; - is standard input. Signing in, the secret that the provider wants of its client."
    ),
]
SignIn = Annotated[
    Literal["browser", "link", "device-code"] | None,
    typer.Option(
        "--sign-in",
        help="Sign in here instead: in a browser, with a link that is only printed, or with a code that is entered on"
        " another device. Default at a terminal: browser.",
    ),
]
ProviderName = Annotated[
    str, typer.Option("--provider", metavar="PROVIDER", help="Where to sign in: an id or a name. Default: it asks.")
]
RedirectPort = Annotated[
    int,
    typer.Option(
        envvar="GUARDHOUSE_REDIRECT_PORT",
        show_envvar=True,
        min=0,
        max=65535,
        help="The port of 127.0.0.1 that the browser comes back to, for a provider that takes one only. Default: any.",
    ),
]
ProviderSecretFile = Annotated[
    typer.FileText | None,
    typer.Option(
        "--client-secret-file",
        help="A file that holds the secret that the provider wants of its client; - is standard input. Default: none.",
    ),
]

Challenge = Annotated[
    str, typer.Option(help="Of start-reauthentication; needed where the provider has people sign in anew.")
]


def credential(
    id_token: str | None,
    id_token_file: typer.FileText | None,
    client_id: str | None,
    client_secret: str | None,
    client_secret_file: typer.FileText | None,
) -> Credential | None:
    """The credential that the options give, or None for none."""
    id_token = id_token_file.read().strip() if id_token_file else id_token
    if client_id:
        client_secret = client_secret_file.read().strip() if client_secret_file else client_secret
        if not client_secret:
            raise typer.BadParameter("it needs --client-secret or --client-secret-file", param_hint="--client-id")
        return Credential(service_token=ServiceTokenCredential(client_id=client_id, client_secret=client_secret))
    return Credential(id_token=id_token) if id_token else None


def required(found: Credential | None) -> Credential:
    if found is None:
        raise typer.BadParameter(
            "a credential is needed: --id-token or --id-token-file of a person, or --client-id of a service token"
        )
    return found


def listed(words: Sequence[str]) -> list[str]:
    """The arguments, or for a - the words of standard input."""
    return sys.stdin.read().split() if list(words) == ["-"] else list(words)


def order(by: str, descending: bool) -> str:
    """An order_by of the contract (AIP-132)."""
    return f"{by} desc" if descending else by


def current(etag: str, read: Callable[[], Any]) -> str:
    """The etag that an update sends: the one that is given, else that of what is there now."""
    return etag or str(read().etag)


def time_in(duration: str | None, option: str) -> Timestamp | None:
    """The time that is a duration from now, by this machine's clock."""
    if duration is None:
        return None
    try:
        microseconds = parse_duration(duration, option)
    except DurationInvalid as error:
        raise typer.BadParameter(error.message, param_hint=option) from None
    time = Timestamp()
    time.GetCurrentTime()
    time.FromMicroseconds(time.ToMicroseconds() + microseconds)
    return time
