"""Enrolling this machine."""

import dataclasses
import hashlib
import hmac
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from guardhouse.cli import output
from guardhouse.cli.device import FOLDER, encoded, key_type_of, write_secret
from guardhouse.cli.invocation import Context
from guardhouse.cli.login import How, person
from guardhouse.cli.options import (
    ClientId,
    ClientSecret,
    ClientSecretFile,
    IdToken,
    IdTokenFile,
    KeyType,
    ProviderName,
    RedirectPort,
    SignIn,
    credential,
)
from guardhouse.registry.v1 import registry_pb2 as pb

MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
PLATFORMS = {"win32": pb.PLATFORM_WINDOWS, "darwin": pb.PLATFORM_MAC, "linux": pb.PLATFORM_LINUX}

HardwareId = Annotated[
    str | None, typer.Option(help="What identifies this machine. Default: made of its machine-id, else its name.")
]
MachineName = Annotated[str | None, typer.Option("--name", help="What people read. Default: the host's name.")]
PlatformName = Annotated[
    Literal["windows", "mac", "linux", "ios", "android", "chromeos"] | None,
    typer.Option("--platform", help="What this machine runs. Default: as it says."),
]
ClientVersion = Annotated[str | None, typer.Option(help="Of which client. Default: this command's.")]


def enroll(
    ctx: Context,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
    sign_in: SignIn = None,
    provider: ProviderName = "",
    redirect_port: RedirectPort = 0,
    hardware_id: HardwareId = None,
    name: MachineName = None,
    os_name: PlatformName = None,
    client_version: ClientVersion = None,
    os_user: Annotated[
        str,
        typer.Option(
            "--multi-user",
            metavar="ACCOUNT",
            help="The machine is shared, and this is for an account of its operating system.",
        ),
    ] = "",
    pre_login: Annotated[
        bool, typer.Option("--pre-login", help="The machine is shared, and this is for its login screen.")
    ] = False,
    managed: Annotated[
        bool, typer.Option("--managed", help="An administrator's file has this machine enroll: it can no longer leave.")
    ] = False,
    key_type: KeyType = "curve25519",
    wireguard: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the [Interface] section for wg-quick here.")
    ] = None,
    save: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the registration's token, private key and profile are kept.")
    ] = FOLDER,
) -> None:
    """Enroll this machine with a fresh key; its token, key and profile stay in files that only you can read."""
    from guardhouse.enrollment import enroll as enroll_machine

    it = ctx.obj
    found = None if sign_in else credential(id_token, id_token_file, client_id, client_secret, client_secret_file)
    if os_user and pre_login:
        raise typer.BadParameter("the login screen has no account: not both of --multi-user and --pre-login")
    shared = pb.MultiUser(os_user=os_user, pre_login=pre_login) if os_user or pre_login else None
    folder = save.expanduser()
    # Whatever can fail does so before the registration exists: its secrets are shown to this call only.
    if wireguard is not None and key_type != "curve25519":
        raise typer.BadParameter("WireGuard's keys are curve25519", param_hint="--key-type")
    if wireguard is not None and wireguard.exists():
        raise typer.BadParameter(f"{wireguard} exists; remove it or name another file", param_hint="--wireguard")
    for target in (folder, wireguard.parent if wireguard else folder):
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(target, os.W_OK):
            raise typer.BadParameter(f"files cannot be written to {target}")
    claims = claims_of(hardware_id, name, os_name, client_version)
    if found is None:
        found = person(it, provider, How(sign_in, client_secret_file, redirect_port))
    with output.waiting("Enrolling ..."):
        made = enroll_machine(
            it.client,
            it.organization_id,
            found,
            claims,
            key_type=key_type_of(key_type),
            multi_user=shared,
            managed=managed,
        )
    registration = made.registration
    stem = folder / registration.registration_id
    kept = {"token": ".token", "private_key": ".key", "profile": ".toml"}
    files = {kind: stem.with_suffix(suffix) for kind, suffix in kept.items()}
    write_secret(files["token"], f"{made.token}\n")
    write_secret(files["private_key"], encoded(made.private_key))
    profile = dataclasses.replace(
        it.client.profile,
        key_file=files["token"],
        organization_id=it.organization_id,
        registration_id=registration.registration_id,
    )
    profile.write(files["profile"])
    if wireguard is not None:
        files["wireguard"] = wireguard
        write_secret(wireguard, made.wireguard)
    # The token is in its file, so it is not in the answer.
    response = pb.RegisterResponse(registration=registration, device=made.device)
    it.show(response, **{kind: str(path) for kind, path in files.items()})


def claims_of(
    hardware_id: str | None, name: str | None, os_name: str | None, client_version: str | None
) -> pb.DeviceClaims:
    """What this machine says of itself, but for what somebody says instead."""
    return pb.DeviceClaims(
        hardware_id=hardware_id or machine_id(),
        display_name=name or platform.node(),
        platform=(
            output.value(pb.Platform, os_name) if os_name else PLATFORMS.get(sys.platform, pb.PLATFORM_UNSPECIFIED)
        ),
        os_version=platform.release()[:255],
        client_version=client_version or importlib.metadata.version("guardhouse"),
    )


def machine_id() -> str:
    """What stays the same on this machine. machine-id(5) asks that its id be hashed with a name of the application."""
    for path in MACHINE_IDS:
        # An image that many machines start from has an empty one, or one that says so.
        if path.exists() and len(found := path.read_bytes().strip()) == 32:
            return hmac.digest(found, b"guardhouse hardware id", hashlib.sha256)[:16].hex()
    return platform.node()
