"""Signing in at an identity provider, where no ID token is at hand."""

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import typer

from guardhouse.cli import invocation, output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import ProviderName, ProviderSecretFile, RedirectPort, SignIn
from guardhouse.client import Client
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

if TYPE_CHECKING:
    from guardhouse.openid import Provider, SignInFailed

NEXT: Final = {
    "access_denied": "whoever signed in may not, or has declined",
    "expired_token": "run the command again; if the provider's page showed an error, check its redirect URI"
    " (docs/identity.md)",
    "invalid_client": "make the client a public one at the provider, or pass its secret with --client-secret-file",
    "invalid_scope": "allow the client the scopes openid, email and profile",
    "unauthorized_client": "allow the client this kind of sign-in at the provider",
    "unreachable": "check the network, and that the provider's certificate is trusted here (SSL_CERT_FILE)",
    "unsupported_grant_type": "sign in with --sign-in browser",
}
"""What to do, by the error of RFC 6749 or RFC 8628."""


@dataclass(frozen=True)
class How:
    """The options of a command that signs somebody in. With a `way` of None that is done at a terminal only."""

    way: str | None
    secret_file: typer.FileText | None
    port: int

    @property
    def with_code(self) -> bool:
        return self.way == "device-code"

    @cached_property
    def secret(self) -> str:
        """Read once: an agent signs people in again and again."""
        return self.secret_file.read().strip() if self.secret_file else ""


def login(
    ctx: Context,
    sign_in: SignIn = None,
    provider: ProviderName = "",
    redirect_port: RedirectPort = 0,
    secret_file: ProviderSecretFile = None,
) -> None:
    """Sign in and print the ID token, for scripts: it is accepted once, for five minutes. Needs no key."""
    it = ctx.obj
    id_token = person(it, provider, How(sign_in or "browser", secret_file, redirect_port)).id_token
    if it.as_json:
        output.print_json({"id_token": id_token})
    else:
        output.print_line(id_token)


def person(it: Invocation, provider: str, how: How) -> Credential:
    """Signs a person in at one of the organization's providers."""
    must_be_wanted(how)
    info = _info(it.client, it.organization_id)
    where = provider_of(info.sign_ins, provider)
    return _signed_in(where, how, device_flow=info.device_flow, fresh=False)


def again(client: Client, organization_id: str, registration_id: str, how: How) -> tuple[Credential, str]:
    """Signs in whoever holds the registration, where they enrolled (decision 27); the challenge goes with it."""
    must_be_wanted(how)
    request = session.StartReauthenticationRequest(organization_id=organization_id, registration_id=registration_id)
    begun = client.sessions.StartReauthentication(request)
    if not begun.HasField("sign_in"):
        raise typer.BadParameter("a machine signs in nowhere: pass its service token", param_hint="--client-id")
    device_flow = how.with_code and _info(client, organization_id).device_flow
    found = _signed_in(begun.sign_in, how, device_flow=device_flow, fresh=begun.sign_in.force_interaction)
    return found, begun.challenge


def must_be_wanted(how: How) -> None:
    if how.way is None and not invocation.is_interactive():
        raise typer.BadParameter(
            "a credential is needed: --sign-in, --id-token or --id-token-file of a person, or --client-id of a service"
            " token"
        )


def _info(client: Client, organization_id: str) -> registry.GetEnrollmentInfoResponse:
    return client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))


def provider_of(found: Sequence[registry.SignIn], wanted: str) -> registry.SignIn:
    """The provider with this id or name; of several somebody chooses."""
    fit = [it for it in found if not wanted or wanted in (it.identity_provider_id, it.display_name)]
    if len(fit) == 1:
        return fit[0]
    names = ", ".join(f"{it.display_name} ({it.identity_provider_id})" for it in fit or found)
    if not names:
        raise typer.BadParameter("people sign in nowhere yet: guardhouse identity-providers add")
    if not fit:
        raise typer.BadParameter(f"it is none of {names}", param_hint="--provider")
    if not invocation.is_interactive():
        raise typer.BadParameter(f"there are several: {names}", param_hint="--provider")
    for number, it in enumerate(fit, 1):
        output.note(f"{number:3}  {it.display_name}  {it.issuer}")

    def choose(text: str) -> registry.SignIn:
        if text.isdecimal() and len(text) < 4 and 0 < int(text) <= len(fit):
            return fit[int(text) - 1]
        raise typer.BadParameter(f"a number from 1 to {len(fit)} is wanted")

    chosen: registry.SignIn = typer.prompt("Sign in at", value_proc=choose, err=True)
    return chosen


def _signed_in(where: Any, how: How, *, device_flow: bool, fresh: bool) -> Credential:
    from guardhouse.openid import SignInFailed

    try:
        return signed_in(where, how, device_flow=device_flow, fresh=fresh)
    except SignInFailed as failed:
        output.error(text(failed))
        raise typer.Exit(1) from None


def signed_in(where: Any, how: How, *, device_flow: bool, fresh: bool) -> Credential:
    """An ID token of the provider, which is registry's SignIn or session's. Raises SignInFailed."""
    from guardhouse.openid import Provider

    if how.with_code and not device_flow:
        raise typer.BadParameter(
            "the organization does not allow it; an admin can: guardhouse organizations update --device-flow",
            param_hint="--sign-in",
        )
    with Provider(where.issuer, where.client_ids[0], how.secret) as provider:
        id_token = _with_code(provider, fresh) if how.with_code else _in_browser(provider, how, fresh)
        return Credential(id_token=id_token)


def _with_code(provider: "Provider", fresh: bool) -> str:
    asked = provider.device_code(fresh=fresh)
    output.note(f"Open {asked.link} on any device and enter {asked.user_code}")
    output.note("Enter it only if you have started this yourself: whoever gave it to you is signed in as you.")
    with output.waiting(f"Waiting for {asked.user_code} ..."):
        return asked.id_token()


def _in_browser(provider: "Provider", how: How, fresh: bool) -> str:
    from guardhouse import openid

    with provider.redirect(fresh=fresh, port=how.port) as asked:
        if how.way != "link" and _opens(asked.link):
            output.note(f"Sign in in your browser. If it shows nothing, open {asked.link}")
        else:
            output.note(f"Open this link in a browser on this machine: {asked.link}")
            output.note(
                f"From another machine it works through `ssh -L {asked.port}:127.0.0.1:{asked.port}` to this one, or"
                " sign in with --sign-in device-code."
            )
        with output.waiting("Waiting for the sign-in ..."):
            return asked.id_token(openid.SECONDS)


def _opens(link: str) -> bool:
    """Whether a browser opens it. Without a screen there are only those that would take the terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, screens)):
        return False
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        # What browsers have to say is no part of the answer.
        os.dup2(2, 1)
        return webbrowser.open(link)
    except (webbrowser.Error, OSError):
        return False
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def text(failed: "SignInFailed") -> str:
    return "; ".join(filter(None, (str(failed), NEXT.get(failed.error))))
