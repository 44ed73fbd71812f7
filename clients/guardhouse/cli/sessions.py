"""Sessions: how long ago people authenticated, when they will be asked again, and doing it."""

from typing import Annotated

import typer

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, batches, joined
from guardhouse.cli.login import How, again
from guardhouse.cli.options import (
    Challenge,
    ClientId,
    ClientSecret,
    ClientSecretFile,
    DryRun,
    IdToken,
    IdTokenFile,
    Limit,
    RedirectPort,
    RegistrationId,
    RegistrationIds,
    SignIn,
    credential,
    listed,
)
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_sessions(
    ctx: Context,
    user: Annotated[
        str, typer.Option(metavar="USER", help="Only this user's.", autocompletion=ids("users", "email"))
    ] = "",
    expired: Annotated[
        bool, typer.Option("--expired", help="Only those that are revoked, or too old for a policy.")
    ] = False,
    limit: Limit = None,
) -> None:
    """List the sessions, and which policy will be the next to ask each of them to sign in."""
    it = ctx.obj
    request = pb.ListSessionsRequest(organization_id=it.organization_id, user_id=user, only_expired=expired)

    def read(page: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        response = it.client.sessions.ListSessions(page)
        for session in response.sessions if not it.as_json else ():
            # A row has room for one.
            del session.next_reauthentications[1:]
        return response

    it.show_all(read, request, limit, "registration_id holder authenticate_time revoked next_reauthentications")


@app.command("show")
def show_session(ctx: Context, registration_id: RegistrationId) -> None:
    """Show a registration's session, and which policies will ask its holder to sign in again, and when."""
    it = ctx.obj
    request = pb.GetSessionRequest(organization_id=it.organization_id, registration_id=registration_id)
    it.show(it.client.sessions.GetSession(request))


@app.command("revoke")
def revoke_sessions(ctx: Context, registration_ids: RegistrationIds, dry_run: DryRun = False) -> None:
    """End registrations' sessions: policies that limit them ask for a new sign-in. Nothing else ends."""
    it = ctx.obj
    request = pb.RevokeSessionsRequest(
        organization_id=it.organization_id, registration_ids=listed(registration_ids), validate_only=dry_run
    )
    response = joined(batches(it.client.sessions.RevokeSessions, request, "registration_ids", "ended"))
    done = "would have to authenticate again" if dry_run else "has to authenticate again"
    it.show_results(response, response.results, done)


@app.command("start-reauthentication")
def start_reauthentication(ctx: Context, registration_id: RegistrationId) -> None:
    """Say where the holder of a registration signs in again, and make a challenge to send along."""
    it = ctx.obj
    request = pb.StartReauthenticationRequest(organization_id=it.organization_id, registration_id=registration_id)
    response = it.client.sessions.StartReauthentication(request)
    it.show(response, challenge=response.challenge, expire_time=output.local_time(response.expire_time))
    if not response.HasField("sign_in"):
        output.note("A machine signs in nowhere: it re-authenticates with its service token.")


@app.command("reauthenticate")
def reauthenticate(
    ctx: Context,
    registration_id: RegistrationId,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    sign_in: SignIn = None,
    redirect_port: RedirectPort = 0,
    challenge: Challenge = "",
) -> None:
    """Start a registration's timer anew: whoever holds it signs in, or sends another credential."""
    it = ctx.obj
    found = None if sign_in else credential(id_token, id_token_file, client_id, client_secret, client_secret_file)
    if found is None:
        how = How(sign_in, client_secret_file, redirect_port)
        found, challenge = again(it.client, it.organization_id, registration_id, how)
    request = pb.ReauthenticateRequest(
        organization_id=it.organization_id, registration_id=registration_id, credential=found, challenge=challenge
    )
    response = it.client.sessions.Reauthenticate(request)
    it.done(response, f"{registration_id} authenticated at {output.local_time(response.authenticate_time)}")


@app.command("refresh")
def refresh(
    ctx: Context,
    registration_id: RegistrationId,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    sign_in: SignIn = None,
    redirect_port: RedirectPort = 0,
    challenge: Challenge = "",
) -> None:
    """As reauthenticate, and show the e-mail, name and groups that count from now on."""
    it = ctx.obj
    found = None if sign_in else credential(id_token, id_token_file, client_id, client_secret, client_secret_file)
    if found is None:
        how = How(sign_in, client_secret_file, redirect_port)
        found, challenge = again(it.client, it.organization_id, registration_id, how)
    request = pb.RefreshIdentityRequest(
        organization_id=it.organization_id, registration_id=registration_id, credential=found, challenge=challenge
    )
    it.show(it.client.sessions.RefreshIdentity(request))
