"""Access applications, the sessions of devices that they take, and the keys that sign their tokens."""

import json
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict, ParseError

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, must_be_interactive
from guardhouse.cli.options import (
    ApplicationId,
    Challenge,
    ClientCountry,
    ClientId,
    ClientIp,
    ClientSecret,
    ClientSecretFile,
    DryRun,
    Etag,
    IdToken,
    IdTokenFile,
    Limit,
    Name,
    NewName,
    Yes,
    credential,
    current,
    required,
)
from guardhouse.cli.rules import kinds, rules_of
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)
device_sessions = typer.Typer(no_args_is_help=True)
signing_keys = typer.Typer(no_args_is_help=True)

KINDS = kinds(pb.ApplicationRule)
DURATION = "How long somebody stays signed in, such as 8h, at most 744h; 0s asks every time."
METHOD = "An identity provider that people may sign in with; may be repeated."
BINDING = "Whether a session is good only with the cookie that came with it."
DEVICE = "Whether the session of a device is enough."
DEVICE_DURATION = "How old the session of a device may be, such as 24h."

Policies = Annotated[
    typer.FileText | None,
    typer.Option(
        metavar="FILE",
        help="Who may use it: JSON with a list of the contract's ApplicationPolicy, as `applications show --json` has"
        " it; - is standard input.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(metavar="PROVIDER", help=f"{METHOD} Default: all.", autocompletion=ids("identity_providers")),
]


@app.command("list")
def list_applications(ctx: Context, limit: Limit = None) -> None:
    """List the applications by creation."""
    it = ctx.obj
    request = pb.ListApplicationsRequest(organization_id=it.organization_id)
    columns = "application_id display_name session_duration binding_cookie device_session_effective description"
    it.show_all(it.client.applications.ListApplications, request, limit, columns)


@app.command("show")
def show_application(ctx: Context, application_id: ApplicationId) -> None:
    """Show an application with its policies."""
    it = ctx.obj
    request = pb.GetApplicationRequest(organization_id=it.organization_id, application_id=application_id)
    it.show(it.client.applications.GetApplication(request))


@app.command("create", epilog=f"A RULE is one of: {KINDS}")
def create_application(
    ctx: Context,
    name: Name,
    policies: Policies = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Instead of --policies: let in whom this matches; may be repeated."),
    ] = None,
    session_duration: Annotated[str, typer.Option(metavar="DURATION", help=f"{DURATION} Default: 24h.")] = "",
    identity_provider: Methods = None,
    binding_cookie: Annotated[bool, typer.Option("--binding-cookie", help=BINDING)] = False,
    device_session: Annotated[
        bool | None, typer.Option("--device-session/--no-device-session", help=f"{DEVICE} Default: as device-sessions.")
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Create an application. Without a policy it lets nobody in."""
    it = ctx.obj
    if policies and allow:
        raise typer.BadParameter("it contradicts --policies", param_hint="--allow")
    found = _policies(policies)
    if allow:
        include = rules_of(pb.ApplicationRule, allow, "--allow")
        found = [pb.ApplicationPolicy(display_name="Allow", decision=pb.APPLICATION_DECISION_ALLOW, include=include)]
    application = pb.Application(
        display_name=name,
        description=description,
        session_duration=session_duration,
        policies=found,
        identity_provider_ids=identity_provider,
        binding_cookie=binding_cookie,
        device_session=device_session,
    )
    request = pb.CreateApplicationRequest(organization_id=it.organization_id, application=application)
    it.show(it.client.applications.CreateApplication(request))


@app.command("update")
def update_application(
    ctx: Context,
    application_id: ApplicationId,
    name: NewName = None,
    policies: Policies = None,
    session_duration: Annotated[str | None, typer.Option(metavar="DURATION", help=DURATION)] = None,
    identity_provider: Methods = None,
    any_identity_provider: Annotated[
        bool, typer.Option("--any-identity-provider", help="Let people sign in with every one.")
    ] = False,
    binding_cookie: Annotated[bool | None, typer.Option("--binding-cookie/--no-binding-cookie", help=BINDING)] = None,
    device_session: Annotated[bool | None, typer.Option("--device-session/--no-device-session", help=DEVICE)] = None,
    default_device_session: Annotated[
        bool, typer.Option("--default-device-session", help="Let device-sessions say that.")
    ] = False,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. Policies replace all of them. It acts on existing sessions."""
    it = ctx.obj
    if identity_provider and any_identity_provider:
        raise typer.BadParameter("it contradicts --any-identity-provider", param_hint="--identity-provider")
    if device_session is not None and default_device_session:
        raise typer.BadParameter("it contradicts --default-device-session", param_hint="--device-session")
    changes = {
        "display_name": name,
        "description": description,
        "session_duration": session_duration,
        "policies": _policies(policies) if policies else None,
        "identity_provider_ids": identity_provider or None,
        "binding_cookie": binding_cookie,
        "device_session": device_session,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    emptied = {"identity_provider_ids": any_identity_provider, "device_session": default_device_session}
    paths = [*changes, *(field for field, empty in emptied.items() if empty)]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse applications update --help")
    application = pb.Application(application_id=application_id, **changes)  # type: ignore[arg-type]  # as its field's
    read = pb.GetApplicationRequest(organization_id=it.organization_id, application_id=application_id)
    application.etag = current(etag, lambda: it.client.applications.GetApplication(read).application)
    request = pb.UpdateApplicationRequest(
        organization_id=it.organization_id, application=application, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.applications.UpdateApplication(request))


@app.command("delete")
def delete_application(
    ctx: Context, application_id: ApplicationId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete an application; nobody is let in to it from now on."""
    it = ctx.obj
    request = pb.DeleteApplicationRequest(organization_id=it.organization_id, application_id=application_id, etag=etag)

    def would(response: pb.DeleteApplicationResponse) -> str:
        return (
            f"This deletes {response.application.display_name!r}: nobody is let in to it from then on."
            " Application tokens that are out hold for at most 15 minutes more."
        )

    response = it.destroy(it.client.applications.DeleteApplication, request, would, yes, dry_run)
    it.done(response, f"{application_id} deleted")


@app.command("log-in")
def log_in(
    ctx: Context,
    application_id: ApplicationId,
    registration: Annotated[
        str,
        typer.Option(
            metavar="REGISTRATION",
            help="The device that is used, whose timer starts anew. Default: none.",
            autocompletion=ids("registrations", "ipv4"),
        ),
    ] = "",
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    challenge: Challenge = "",
    ip: ClientIp = "",
    country: ClientCountry = "",
) -> None:
    """Sign somebody in to an application, and show the session and the token that they get."""
    it = ctx.obj
    found = required(credential(id_token, id_token_file, client_id, client_secret, client_secret_file))
    request = pb.LogInRequest(
        organization_id=it.organization_id,
        application_id=application_id,
        credential=found,
        registration_id=registration,
        client=pb.ClientFacts(ip=ip, country=country),
        challenge=challenge,
    )
    response = it.client.sessions.LogIn(request)
    allowed = response.answer.decision == pb.DECISION_ALLOW
    given = ("session_token", "binding", "application_token", "application_token_expire_time") if allowed else ()
    it.show(response, **{field: output.cell(response, field) for field in given})


@device_sessions.command("show")
def show_device_sessions(ctx: Context) -> None:
    """Show how old the session of a device may be, and which applications take it."""
    it = ctx.obj
    request = pb.GetDeviceSessionSettingsRequest(organization_id=it.organization_id)
    it.show(it.client.applications.GetDeviceSessionSettings(request))


@device_sessions.command("update")
def update_device_sessions(
    ctx: Context,
    session_duration: Annotated[str | None, typer.Option(metavar="DURATION", help=DEVICE_DURATION)] = None,
    no_session_duration: Annotated[
        bool, typer.Option("--no-session-duration", help="Let no application take it.")
    ] = False,
    apply_by_default: Annotated[
        bool | None,
        typer.Option(
            "--apply-by-default/--no-apply-by-default",
            help="Of applications that do not say themselves, those that exist and new ones.",
        ),
    ] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. It acts on existing sessions."""
    it = ctx.obj
    if session_duration and no_session_duration:
        raise typer.BadParameter("it contradicts --no-session-duration", param_hint="--session-duration")
    changes = {"session_duration": session_duration, "apply_by_default": apply_by_default}
    changes = {field: value for field, value in changes.items() if value is not None}
    paths = [*changes, *(["session_duration"] if no_session_duration else [])]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse device-sessions update --help")
    settings = pb.DeviceSessionSettings(**changes)  # type: ignore[arg-type]  # each has its field's type
    read = pb.GetDeviceSessionSettingsRequest(organization_id=it.organization_id)
    settings.etag = current(etag, lambda: it.client.applications.GetDeviceSessionSettings(read).settings)
    request = pb.UpdateDeviceSessionSettingsRequest(
        organization_id=it.organization_id, settings=settings, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.applications.UpdateDeviceSessionSettings(request))


@signing_keys.command("list")
def list_signing_keys(ctx: Context) -> None:
    """List the keys that application tokens are checked with, the newest first."""
    it = ctx.obj
    response = it.client.applications.ListSigningKeys(pb.ListSigningKeysRequest(organization_id=it.organization_id))
    if it.as_json:
        output.print_json(response)
    else:
        output.print_table(response.signing_keys, "key_id create_time sign_time expire_time")


@signing_keys.command("rotate")
def rotate_signing_key(
    ctx: Context,
    revoke_previous: Annotated[
        bool, typer.Option("--revoke-previous", help="Withdraw the others at once: one of them leaked.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Make the next signing key. It signs an hour later, and the one before stays for a week."""
    it = ctx.obj
    if revoke_previous and not yes:
        must_be_interactive()
        withdrawn = "This withdraws all other keys at once: tokens that they signed are good nowhere from then on."
        typer.confirm(f"{withdrawn} Continue?", abort=True, err=True)
    request = pb.RotateSigningKeyRequest(organization_id=it.organization_id, revoke_previous=revoke_previous)
    it.show(it.client.applications.RotateSigningKey(request))


def _policies(file: typer.FileText | None) -> list[pb.ApplicationPolicy]:
    if file is None:
        return []
    try:
        content = json.load(file)
        if not isinstance(content, list):
            raise typer.BadParameter("it is no list of policies", param_hint="--policies")
        return list(ParseDict({"policies": content}, pb.Application()).policies)
    except (ValueError, ParseError) as error:
        raise typer.BadParameter(str(error), param_hint="--policies") from None
