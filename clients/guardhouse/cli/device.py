"""This machine's own registration: what enrolling has kept, and the calls that it makes for itself.

A registration is kept as three files of one name: its profile (.toml), its token (.token) and its private key (.key).
"""

import base64
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation, must_be_interactive
from guardhouse.cli.login import How, again
from guardhouse.cli.options import (
    Challenge,
    ClientId,
    ClientSecret,
    ClientSecretFile,
    IdToken,
    IdTokenFile,
    KeyType,
    RedirectPort,
    SignIn,
    Yes,
    credential,
)
from guardhouse.client import Client, connect
from guardhouse.keys import CURVE25519, KEY_TYPES
from guardhouse.keys import KeyType as Kind
from guardhouse.profile import ProfileInvalid, find, load
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.session.v1 import session_pb2 as session

app = typer.Typer(no_args_is_help=True)

FOLDER: Final = Path("~/.config/guardhouse")

Kept = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FOLDER", help=f"Where `guardhouse enroll` has kept it. Default: --profile's, else {FOLDER}."
    ),
]
Which = Annotated[
    str,
    typer.Option(
        "--registration", metavar="REGISTRATION", help="Which, where several are kept. Default: the only one."
    ),
]


@dataclass(frozen=True, slots=True)
class Device:
    """A registration of this machine, and a client that calls with its token."""

    client: Client
    organization_id: str
    registration_id: str
    profile: Path

    @property
    def key(self) -> Path:
        return self.profile.with_suffix(".key")

    @property
    def new_key(self) -> Path:
        """A key that is to replace the other, and perhaps has."""
        return self.profile.with_suffix(".key.new")

    def replacement(self) -> bytes | None:
        """The private key that the file holds; None if there is none, or only what a crash has left of one."""
        try:
            private = base64.b64decode(self.new_key.read_bytes().strip(), validate=True)
        except (FileNotFoundError, ValueError):
            return None
        return private if len(private) == 32 else None

    def registration(self) -> pb.Registration:
        request = pb.GetRegistrationRequest(organization_id=self.organization_id, registration_id=self.registration_id)
        return self.client.registrations.GetRegistration(request).registration


@app.command("show")
def show(ctx: Context, folder: Kept = None, which: Which = "") -> None:
    """Show this machine's registration."""
    it = ctx.obj
    device = _device(it, folder, which)
    it.show(pb.GetRegistrationResponse(registration=device.registration()), profile=str(device.profile))


@app.command("heartbeat")
def heartbeat(
    ctx: Context,
    passed: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="A posture check that it passed; may be repeated.")
    ] = None,
    failed: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="One that it failed; may be repeated.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="The managed network that it is in; none for in no such network.")
    ] = None,
    folder: Kept = None,
    which: Which = "",
) -> None:
    """Say that this machine lives, what it runs, and perhaps what all its posture checks came to."""
    it = ctx.obj
    device = _device(it, folder, which)
    request = pb.HeartbeatRequest(
        organization_id=device.organization_id,
        registration_id=device.registration_id,
        os_version=platform.release()[:255],
        client_version=importlib.metadata.version("guardhouse"),
        posture=pb.DevicePosture(passed=passed, failed=failed) if passed or failed else None,
        network="" if network == "none" else network,
    )
    it.done(device.client.registrations.Heartbeat(request), f"{device.registration_id} was heard of")


@app.command("check-override")
def check_override(
    ctx: Context,
    code: Annotated[str, typer.Argument(metavar="CODE", help="What an administrator has read out.")],
    folder: Kept = None,
    which: Which = "",
) -> None:
    """Ask whether an override code is good, and until when."""
    it = ctx.obj
    device = _device(it, folder, which)
    request = pb.CheckOverrideCodeRequest(
        organization_id=device.organization_id, registration_id=device.registration_id, code=code
    )
    it.show(device.client.registrations.CheckOverrideCode(request))


@app.command("report-session")
def report_session(
    ctx: Context,
    event: Annotated[
        Literal["log-in", "log-out", "switch", "lock"],
        typer.Argument(metavar="EVENT", help="log-in, log-out, switch or lock."),
    ],
    os_user: Annotated[
        str, typer.Option("--user", metavar="ACCOUNT", help="Whose session; for lock nobody's need be named.")
    ] = "",
    sequence: Annotated[
        int | None, typer.Option(min=1, help="Greater than that of the event before. Default: by this machine's clock.")
    ] = None,
    folder: Kept = None,
    which: Which = "",
) -> None:
    """Say who is at this machine, which is shared. What it does is attributed to their registration."""
    it = ctx.obj
    device = _device(it, folder, which)
    now = Timestamp()
    now.GetCurrentTime()
    request = pb.ReportOsSessionRequest(
        organization_id=device.organization_id,
        registration_id=device.registration_id,
        event=output.value(pb.OsSessionEvent, event),
        os_user=os_user,
        sequence=sequence or now.ToMicroseconds(),
    )
    it.show(device.client.devices.ReportOsSession(request))


@app.command("rotate-key")
def rotate_key(
    ctx: Context,
    key_type: KeyType = "curve25519",
    wireguard: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the new key into this file of wg-quick, too.")
    ] = None,
    folder: Kept = None,
    which: Which = "",
) -> None:
    """Replace this machine's key by a fresh one; its addresses and session stay. What was cut short goes on."""
    from guardhouse.enrollment import rotate

    it = ctx.obj
    device = _device(it, folder, which)
    kind = key_type_of(key_type)
    old, private = device.key.read_text(), device.replacement()
    if wireguard is not None:
        if kind is not CURVE25519:
            raise typer.BadParameter("WireGuard's keys are curve25519", param_hint="--key-type")
        if old.strip() not in wireguard.read_text() and private is None:
            raise typer.BadParameter(f"{wireguard} does not hold the present key", param_hint="--wireguard")
    registration = device.registration()
    # The answer may be lost: the new key is kept before it can count, and the registration tells which of the two does.
    if private is None:
        private = kind.new_private_key()
        device.new_key.unlink(missing_ok=True)  # A part of a key was never sent.
        write_secret(device.new_key, encoded(private))
    if registration.public_key != KEY_TYPES[registration.key_type].public_key(private):
        registration = rotate(device.client, device.organization_id, registration, private, kind).registration
    if wireguard is not None:
        replaced = wireguard.read_text().replace(old.strip(), encoded(private).strip())
        _replace_secret(wireguard, replaced)
    device.new_key.replace(device.key)
    it.show(pb.RotateKeyResponse(registration=registration), private_key=str(device.key))


@app.command("reauthenticate")
def reauthenticate(
    ctx: Context,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    sign_in: SignIn = None,
    redirect_port: RedirectPort = 0,
    challenge: Challenge = "",
    folder: Kept = None,
    which: Which = "",
) -> None:
    """Start this machine's session anew: whoever enrolled it signs in, or sends another credential."""
    it = ctx.obj
    found = None if sign_in else credential(id_token, id_token_file, client_id, client_secret, client_secret_file)
    device = _device(it, folder, which)
    if found is None:
        how = How(sign_in, client_secret_file, redirect_port)
        found, challenge = again(device.client, device.organization_id, device.registration_id, how)
    request = session.ReauthenticateRequest(
        organization_id=device.organization_id,
        registration_id=device.registration_id,
        credential=found,
        challenge=challenge,
    )
    response = device.client.sessions.Reauthenticate(request)
    it.done(response, f"{device.registration_id} authenticated at {output.local_time(response.authenticate_time)}")


@app.command("leave")
def leave(ctx: Context, folder: Kept = None, which: Which = "", yes: Yes = False) -> None:
    """Delete this machine's registration for good, and the files that enrolling has kept."""
    it = ctx.obj
    device = _device(it, folder, which)
    if not yes:
        must_be_interactive()
        held = device.registration()
        typer.confirm(
            f"This deletes {held.registration_id} for good and releases {held.ipv4} and {held.ipv6}. Continue?",
            abort=True,
            err=True,
        )
    request = pb.LeaveRequest(organization_id=device.organization_id, registration_id=device.registration_id)
    response = device.client.registrations.Leave(request)
    for suffix in (".token", ".key", ".key.new", ".toml"):
        device.profile.with_suffix(suffix).unlink(missing_ok=True)
    it.done(response, f"{device.registration_id} deleted, with its files in {device.profile.parent}")


@app.command("enrollment-info")
def enrollment_info(ctx: Context) -> None:
    """Show what a device needs to enroll: where people sign in, and a challenge. Needs no key."""
    it = ctx.obj
    request = pb.GetEnrollmentInfoRequest(organization_id=it.organization_id)
    it.show(it.client.enrollment.GetEnrollmentInfo(request))


def _device(it: Invocation, folder: Path | None, which: str) -> Device:
    """The registration of --profile if that is a device's and no other is named, else what is kept in the folder."""
    path = it.profile
    if path is None or folder is not None or which or not load(path).registration_id:
        kept = (folder or FOLDER).expanduser()
        found = sorted(kept.glob(f"{which or 'reg_*'}.toml"))
        if not found:
            raise ProfileInvalid(
                f"no registration is kept in {kept}: guardhouse enroll, or name its folder with --from"
            )
        if len(found) > 1:
            names = ", ".join(path.stem for path in found)
            raise typer.BadParameter(f"there are several: {names}", param_hint="--registration")
        path = found[0]
    # The operator's key, which the environment may hold, is not this device's.
    token = path.with_suffix(".token").read_text()
    profile = find(path, token)
    client = connect(profile)
    it.closing.append(client.close)
    return Device(client, profile.organization_id, profile.registration_id, path)


def key_type_of(word: str) -> Kind:
    return KEY_TYPES[output.value(pb.KeyType, word)]


def encoded(private_key: bytes) -> str:
    """As files hold it, WireGuard's among them."""
    return base64.b64encode(private_key).decode() + "\n"


def write_secret(path: Path, text: str) -> None:
    """Writes a new file that only its owner can read, and that is on the disk, under its name, when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if os.name == "posix":  # Windows opens no folders.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _replace_secret(path: Path, text: str) -> None:
    """At once, so that no reader sees half of it."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    write_secret(new, text)
    new.replace(path)
