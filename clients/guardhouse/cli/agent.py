"""The agent of this machine: running it, asking how it is, telling it who is at the desk, and leaving."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import typer

from guardhouse import keys, mdm
from guardhouse.agent import report
from guardhouse.agent.agent import Agent, EventInvalid, Shared
from guardhouse.agent.events import SOCKET, listening, tell
from guardhouse.agent.folder import Folder, FolderUnusable
from guardhouse.agent.keeper import Means, NobodySignedIn, Orders
from guardhouse.agent.link import Wire
from guardhouse.agent.tunnel import Gateway, split_endpoint
from guardhouse.cli import login, output
from guardhouse.cli.enroll import ClientVersion, HardwareId, MachineName, PlatformName, claims_of
from guardhouse.cli.invocation import Context, Invocation, must_be_interactive
from guardhouse.cli.login import How
from guardhouse.cli.options import (
    NEVER,
    ClientId,
    ClientSecret,
    ClientSecretFile,
    IdToken,
    IdTokenFile,
    ProviderName,
    RedirectPort,
    SignIn,
    Yes,
    credential,
)
from guardhouse.cli.problems import NEXT
from guardhouse.clock import SystemClock
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.durations import DAY, SECOND, parse_within
from guardhouse.errors import IdentityProviderUnavailable, KeyInvalid
from guardhouse.gateway.claim import InterfaceTaken
from guardhouse.gateway.uapi import FOLDER, InterfaceUnavailable
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

OF_ROOT: Final = Path("/var/lib/guardhouse")
OF_A_USER: Final = Path("~/.local/state/guardhouse")
HEARTBEAT: Final = SECOND, DAY
ROTATE: Final = 60 * SECOND, 3650 * DAY
TUNNELED_MODES: Final = ("warp", "tunnelonly")

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="GUARDHOUSE_AGENT_STATE",
        show_envvar=True,
        metavar="FOLDER",
        help=f"Where it keeps keys, tokens and how it is. Default: {OF_ROOT} for root, else {OF_A_USER}.",
    ),
]
InterfaceName = Annotated[
    str,
    typer.Option(
        "--interface",
        metavar="NAME",
        help="The interface of WireGuard in user space that it sets up; it belongs to the agent. Default: none.",
    ),
]
Sockets = Annotated[Path, typer.Option(metavar="FOLDER", help="Where interfaces in user space have their sockets.")]


@app.command("run")
def run(
    ctx: Context,
    interface: InterfaceName = "",
    gateway_public_key: Annotated[
        str, typer.Option(metavar="KEY", help="The gateway's public key, in base64. Default: the profile's.")
    ] = "",
    gateway_endpoint: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the gateway is. Default: the MDM file's, or the profile's.")
    ] = "",
    mdm_file: Annotated[
        Path | None,
        typer.Option(
            "--mdm",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Take what an administrator has set up from here.",
        ),
    ] = None,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    sign_in: SignIn = None,
    provider: ProviderName = "",
    redirect_port: RedirectPort = 0,
    multi_user: Annotated[
        bool,
        typer.Option("--multi-user", help="The machine is shared; a service token here is for its login screen."),
    ] = False,
    hardware_id: HardwareId = None,
    name: MachineName = None,
    os_name: PlatformName = None,
    client_version: ClientVersion = None,
    heartbeat: Annotated[
        str, typer.Option(metavar="DURATION", help="How often it says that this machine lives, from 1s to 24h.")
    ] = "1m",
    rotate: Annotated[
        str, typer.Option("--rotate-key", metavar="DURATION", help="How old a key becomes, from 1m; or never.")
    ] = "720h",
    keepalive: Annotated[
        int, typer.Option(min=0, max=65535, metavar="SECONDS", help="How often a packet keeps a NAT open; 0 is never.")
    ] = 25,
    mtu: Annotated[int, typer.Option(min=1280, max=65535, help="The longest packet in the tunnel.")] = 1420,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is due now, and end; exits with 1 if something cannot be done.")
    ] = False,
    state: State = None,
    sockets: Sockets = FOLDER,
) -> None:
    """Keep this machine enrolled and connected, until it is stopped. When it ends the tunnel stays as it is."""
    it = ctx.obj
    managed, file = _managed(mdm_file, it)
    organization_id = file.organization or it.organization_id
    profile = dataclasses.replace(it.client.profile, organization_id=organization_id, key="", key_file=None)
    found = credential(id_token, id_token_file, client_id, client_secret, client_secret_file)
    if found is None and file.auth_client_id:
        found = _service_token(file.auth_client_id, file.auth_client_secret)
    token = found if found is not None and found.HasField("service_token") else None
    means = Means(token) if token else Means(person=Asks(it, provider, How(sign_in, client_secret_file, redirect_port)))
    shared = None
    if multi_user or managed.multi_user:
        if found is not None and token is None:
            raise typer.BadParameter("people of a shared machine sign in with `guardhouse agent tell sign-in`")
        if managed.pre_login is not None:
            token = _service_token(managed.pre_login.auth_client_id, managed.pre_login.auth_client_secret)
        shared = Shared(token)
    gateway = None
    if interface and file.service_mode in TUNNELED_MODES:
        gateway = Gateway(
            _public_key(gateway_public_key or profile.gateway_public_key),
            _endpoint(gateway_endpoint or file.override_warp_endpoint or profile.gateway_endpoint),
            keepalive,
            mtu,
        )
    orders = Orders(
        profile,
        claims_of(hardware_id, name, os_name, client_version),
        parse_within(heartbeat, "heartbeat", *HEARTBEAT),
        None if rotate == NEVER else parse_within(rotate, "rotate_key", *ROTATE),
        managed=mdm_file is not None,
    )
    folder = Folder(_state(state))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    wire = Wire(interface, sockets) if interface else None

    async def work() -> bool:
        agent = Agent(orders, folder, SystemClock(), means, wire, gateway, shared)
        if found is not None and token is None and not agent.is_enrolled:
            agent.sign_in("", found.id_token)
        if once:
            try:
                return not await agent.once()
            finally:
                await agent.close()
        async with listening(agent, folder.path / SOCKET):
            await agent.run()
        return True

    with _told(), folder.locked(), wire.claimed() if wire else contextlib.nullcontext():
        succeeded = asyncio.run(work() if once else _until_stopped(work()))
    if once:
        _show(it, folder, just_ran=True)
    if not succeeded:
        raise typer.Exit(1)


@app.command("status")
def status(ctx: Context, state: State = None) -> None:
    """Say how the agent of this machine is, and what to do; exits with 1 if something is wrong."""
    folder = Folder(_state(state))
    if not _show(ctx.obj, folder):
        raise typer.Exit(1)


@app.command("tell")
def tell_event(
    ctx: Context,
    event: Annotated[
        Literal["log-in", "log-out", "switch", "lock", "sign-in"],
        typer.Argument(metavar="EVENT", help="log-in, log-out, switch, lock or sign-in."),
    ],
    os_user: Annotated[str, typer.Option("--user", metavar="ACCOUNT", help="Whose, on a machine that is shared.")] = "",
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    state: State = None,
) -> None:
    """Tell the agent that runs here who is at this machine, or what somebody has signed in with."""
    said = {"event": event, "user": os_user}
    if event == "sign-in":
        found = credential(id_token, id_token_file, None, None, None)
        if found is None:
            raise typer.BadParameter("it needs the ID token of guardhouse login", param_hint="--id-token-file")
        said["id_token"] = found.id_token
    path = _state(state) / SOCKET
    try:
        answer = asyncio.run(tell(path, said))
    except (FileNotFoundError, ConnectionRefusedError):
        output.error(f"no agent runs here ({path} does not answer): guardhouse agent run")
        raise typer.Exit(1) from None
    except EventInvalid as error:
        output.error(str(error))
        raise typer.Exit(1) from None
    if ctx.obj.as_json:
        output.print_json(answer)
        return
    current = answer["current_registration_id"] or "nobody's registration"
    output.print_line(f"{current} is current{', and somebody has to sign in' * answer['asks_to_register']}")


@app.command("leave")
def leave(
    ctx: Context, interface: InterfaceName = "", state: State = None, sockets: Sockets = FOLDER, yes: Yes = False
) -> None:
    """Delete this machine's registrations for good, with the files of the agent, and take the tunnel down."""
    it = ctx.obj
    folder = Folder(_state(state))
    with _told(), folder.locked():
        kept = folder.registrations()
        if not kept:
            raise FolderUnusable(f"no registration is kept in {folder.path}: name another with --state")
        ids = ", ".join(of.registration_id for of in kept)
        if not yes:
            must_be_interactive()
            typer.confirm(f"This deletes {ids} for good and releases the addresses. Continue?", abort=True, err=True)
        organization_id = kept[0].request.organization_id
        profile = dataclasses.replace(it.client.profile, organization_id=organization_id, key="")
        orders = Orders(profile, registry.DeviceClaims(), DAY, None)
        shared = Shared() if kept[0].registration.HasField("multi_user") else None
        wire = Wire(interface, sockets) if interface else None

        async def work() -> None:
            agent = Agent(orders, folder, SystemClock(), Means(), wire, None, shared)
            try:
                await agent.leave()
            finally:
                await agent.close()

        with wire.claimed() if wire else contextlib.nullcontext():
            asyncio.run(work())
    if it.as_json:
        output.print_json({"registration_ids": [of.registration_id for of in kept]})
    else:
        output.print_line(f"{ids} deleted, with the files in {folder.path}")


class Asks:
    """Has a person sign in, from the terminal that the agent runs in."""

    def __init__(self, it: Invocation, provider: str, how: How) -> None:
        self._it = it
        self._provider = provider
        self._how = how

    async def enroll(self, info: registry.GetEnrollmentInfoResponse) -> Credential:
        def ask() -> Credential:
            where = login.provider_of(info.sign_ins, self._provider)
            return login.signed_in(where, self._how, device_flow=info.device_flow, fresh=False)

        return await self._asked(ask)

    async def again(self, begun: session.StartReauthenticationResponse, device_flow: bool) -> Credential:
        def ask() -> Credential:
            where = begun.sign_in
            return login.signed_in(where, self._how, device_flow=device_flow, fresh=where.force_interaction)

        return await self._asked(ask)

    async def _asked(self, ask: Callable[[], Credential]) -> Credential:
        from guardhouse.openid import UNREACHABLE, SignInFailed

        try:
            login.must_be_wanted(self._how)
            return await _in_thread(ask)
        except SignInFailed as failed:
            if failed.error == UNREACHABLE:
                raise IdentityProviderUnavailable(login.text(failed)) from None
            raise NobodySignedIn(login.text(failed)) from None
        except typer.BadParameter as wrong:
            raise NobodySignedIn(wrong.message) from None


def _managed(path: Path | None, it: Invocation) -> tuple[mdm.Mdm, mdm.Settings]:
    """What the file says, and of the organization that is named, or that is the only one."""
    if path is None:
        return mdm.Mdm(), mdm.Settings()
    try:
        with path.open("rb") as file:
            found = mdm.parse(file.read(mdm.MAX_SIZE + 1))
    except mdm.MdmInvalid as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--mdm") from None
    if mdm.has_secrets(found) and path.stat().st_mode & 0o004:
        output.note(f"warning: {path} holds a secret, and everybody on this machine may read it: chmod 600 {path}")
    named = it.named_organization_id
    fit = [of for of in found.configs if len(found.configs) == 1 or of.organization == named]
    if len(fit) != 1:
        names = ", ".join(of.organization for of in found.configs)
        raise typer.BadParameter(f"{path} has several organizations, {names}: name one", param_hint="--organization")
    return found, fit[0]


def _service_token(client_id: str, client_secret: str) -> Credential:
    return Credential(service_token=ServiceTokenCredential(client_id=client_id, client_secret=client_secret))


def _public_key(text: str) -> bytes:
    hint = "--gateway-public-key"
    if not text:
        raise typer.BadParameter(
            "the gateway's key is needed: `wg show NAME public-key` there says it", param_hint=hint
        )
    try:
        return keys.CURVE25519.decode(text, "gateway_public_key")
    except KeyInvalid as error:
        raise typer.BadParameter(error.message, param_hint=hint) from None


def _endpoint(text: str) -> str:
    hint = "--gateway-endpoint"
    if not text:
        raise typer.BadParameter(
            "where the gateway is has to be said, such as gateway.example.com:51820", param_hint=hint
        )
    try:
        split_endpoint(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None
    return text


def _state(named: Path | None) -> Path:
    if named is not None:
        return named.expanduser()
    return OF_ROOT if os.geteuid() == 0 else OF_A_USER.expanduser()


def _show(it: Invocation, folder: Folder, *, just_ran: bool = False) -> bool:
    """Prints how the agent is; whether all is well."""
    found = folder.read_json("status")
    said = report.judge(found, SystemClock().now(), is_running=just_ran or folder.is_locked)
    sentence = "; ".join([said.sentence, *(NEXT[reason] for reason in said.reasons if reason in NEXT)])
    if it.as_json:
        output.print_json({"ok": said.ok, "sentence": sentence, **(found or {})})
    else:
        output.print_line(sentence)
        if rows := report.rows(found):
            output.print_rows(report.HEADINGS, rows)
    return said.ok


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (FolderUnusable, InterfaceTaken, InterfaceUnavailable) as error:
        output.error(str(error))
        raise typer.Exit(1) from None


async def _until_stopped(work: Coroutine[Any, Any, bool]) -> bool:
    running = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return True


async def _in_thread(ask: Callable[[], T]) -> T:
    """As asyncio.to_thread, but nobody waits for it at the end: a person may never sign in."""
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # whoever awaits it is told
            answer.set_exception(error)

    threading.Thread(target=work, name="sign-in", daemon=True).start()
    return await asyncio.wrap_future(answer)
