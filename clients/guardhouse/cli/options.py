"""The options and arguments that several commands have, and what becomes of them."""

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.durations import parse_duration
from guardhouse.errors import DurationInvalid

Limit = Annotated[int | None, typer.Option(min=1, help="Show at most as many. Default: all.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What people read.")]

IdToken = Annotated[
    str | None,
    typer.Option(envvar="GUARDHOUSE_ID_TOKEN", show_envvar=True, help="A person's ID token, at most five minutes old."),
]
IdTokenFile = Annotated[typer.FileText | None, typer.Option(help="A file that holds it; - is standard input.")]
ClientId = Annotated[str | None, typer.Option(help="A service token's client id.")]
ClientSecret = Annotated[
    str | None, typer.Option(envvar="GUARDHOUSE_CLIENT_SECRET", show_envvar=True, help="Its secret.")
]
ClientSecretFile = Annotated[typer.FileText | None, typer.Option(help="A file that holds it; - is standard input.")]


def credential(
    id_token: str | None,
    id_token_file: typer.FileText | None,
    client_id: str | None,
    client_secret: str | None,
    client_secret_file: typer.FileText | None,
) -> Credential | None:
    """The credential that the options give, or None for none."""
    id_token = id_token_file.read().strip() if id_token_file else id_token
    client_secret = client_secret_file.read().strip() if client_secret_file else client_secret
    if client_id:
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
