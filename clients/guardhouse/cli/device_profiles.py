"""Device profiles: what clients are told, by whose they are and what they run."""

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict, ParseError

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import DryRun, Etag, Limit, NewName, Yes, current
from guardhouse.registry.v1 import registry_pb2 as pb

app = typer.Typer(no_args_is_help=True)

ProfileId = Annotated[
    str, typer.Argument(metavar="PROFILE", autocompletion=ids("device_profiles", "name"), show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A profile as `show --json` prints it, in JSON or TOML; what is named beside it wins.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SETTING=VALUE", help="Such as auto_connect=10m or service_mode=proxy:40000; may be repeated."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NETWORK|HOST", help="Let this, and nothing else, not go through the tunnel; may be repeated."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="NETWORK|HOST", help="Let this, and nothing else, go through the tunnel; may be repeated."),
]
Match = Annotated[
    str | None, typer.Option(metavar="EXPRESSION", help="Whose it is, such as 'identity.email == \"ada@example.com\"'.")
]
Precedence = Annotated[int | None, typer.Option(min=1, max=2**31 - 1, help="Lower comes first.")]

SETTINGS: Final = pb.DeviceProfileSettings.DESCRIPTOR.fields_by_name
STEP: Final = 10
"""How far behind the last a new one comes, so that others fit between."""


@app.command("list")
def list_profiles(ctx: Context, limit: Limit = None) -> None:
    """List the profiles in the order in which they are asked; the default is the last."""
    it = ctx.obj
    request = pb.ListDeviceProfilesRequest(organization_id=it.organization_id)
    whole: Any = it.listed(it.client.device_profiles.ListDeviceProfiles, request, limit)
    if it.as_json:
        output.print_json(whole)
        return
    output.print_table(whole.device_profiles, "precedence device_profile_id name enabled default match")
    matching = whole.matching
    if whole.HasField("matching") and not matching.HasField("end_time"):
        checked = output.count(matching.registrations_checked, "registration")
        output.note(f"Being matched anew: {checked} so far, of which {matching.registrations_moved} have another one.")


@app.command("show")
def show_profile(ctx: Context, profile_id: ProfileId) -> None:
    """Show a profile with all its settings."""
    it = ctx.obj
    it.show(it.client.device_profiles.GetDeviceProfile(_get(it, profile_id)))


@app.command("create")
def create_profile(
    ctx: Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="What people read.", show_default=False)] = None,
    match: Match = None,
    precedence: Precedence = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Let it match nobody yet.")] = False,
    settings: Set = None,
    exclude: Exclude = None,
    include: Include = None,
    file: File = None,
    dry_run: DryRun = False,
) -> None:
    """Create a profile. Settings that are not named are copied from the default profile."""
    it = ctx.obj
    profile = _profile(
        {"name": name, "match": match, "precedence": precedence, "description": description},
        _settings(settings, exclude, include),
        file,
    )
    if disabled:
        profile.enabled = False
    if not profile.HasField("precedence"):
        profile.precedence = min(_last_precedence(it) + STEP, 2**31 - 1)
    request = pb.CreateDeviceProfileRequest(
        organization_id=it.organization_id, device_profile=profile, validate_only=dry_run
    )
    response = it.client.device_profiles.CreateDeviceProfile(request)
    it.show(response)
    _warn(response.warnings)


@app.command("update")
def update_profile(
    ctx: Context,
    profile_id: ProfileId,
    name: NewName = None,
    match: Match = None,
    precedence: Precedence = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it matches anybody.")] = None,
    settings: Set = None,
    exclude: Exclude = None,
    include: Include = None,
    reset: Annotated[
        list[str] | None, typer.Option(metavar="SETTING", help="Give it its default again; may be repeated.")
    ] = None,
    file: File = None,
    etag: Etag = "",
    dry_run: DryRun = False,
) -> None:
    """Change what is named; the rest stays. Devices hear of it with their next heartbeat."""
    it = ctx.obj
    profile = _profile(
        {"name": name, "match": match, "precedence": precedence, "description": description, "enabled": enabled},
        _settings(settings, exclude, include),
        file,
    )
    for setting in reset or ():
        _known(setting, "--reset")
    profile.device_profile_id = profile_id
    paths = _paths(profile, reset or ())
    if description == "":
        paths.append("description")
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse profiles update --help")
    profile.etag = current(
        etag, lambda: it.client.device_profiles.GetDeviceProfile(_get(it, profile_id)).device_profile
    )
    request = pb.UpdateDeviceProfileRequest(
        organization_id=it.organization_id,
        device_profile=profile,
        update_mask=FieldMask(paths=paths),
        validate_only=dry_run,
    )
    response = it.client.device_profiles.UpdateDeviceProfile(request)
    it.show(response)
    _warn(response.warnings)


@app.command("delete")
def delete_profile(
    ctx: Context, profile_id: ProfileId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete a profile; its registrations get the one that matches them then."""
    it = ctx.obj
    request = pb.DeleteDeviceProfileRequest(organization_id=it.organization_id, device_profile_id=profile_id, etag=etag)

    def would(response: pb.DeleteDeviceProfileResponse) -> str:
        name = response.device_profile.name
        return f"This deletes {name!r}: its registrations get the profile that matches them then."

    response = it.destroy(it.client.device_profiles.DeleteDeviceProfile, request, would, yes, dry_run)
    it.done(response, f"{profile_id} deleted")


@app.command("match")
def match_profile(
    ctx: Context,
    registration_id: Annotated[
        str | None,
        typer.Argument(metavar="[REGISTRATION]", autocompletion=ids("registrations", "ipv4"), show_default=False),
    ] = None,
    email: Annotated[str, typer.Option(help="Somebody with this address.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="In this group; may be repeated.")] = None,
    claim: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="With this claim.")] = None,
    service_token: Annotated[str, typer.Option(help="A machine with this.", autocompletion=ids("service_tokens"))] = "",
    platform: Annotated[
        Literal["windows", "mac", "linux", "ios", "android", "chromeos"] | None, typer.Option(help="What it runs.")
    ] = None,
    os_version: Annotated[str, typer.Option(help="In this version.")] = "",
    network: Annotated[str, typer.Option(help="In this managed network.")] = "",
) -> None:
    """Say which profile a registration gets, or somebody who need not exist, and why."""
    it = ctx.obj
    request = pb.MatchDeviceProfileRequest(organization_id=it.organization_id)
    subject = pb.ProfileSubject(
        email=email,
        groups=group,
        oidc_claims=claim,
        service_token_id=service_token,
        platform=output.value(pb.Platform, platform or "unspecified"),
        os_version=os_version,
        network=network,
    )
    if registration_id is None:
        request.test_subject.CopyFrom(subject)
    elif subject.ByteSize():
        raise typer.BadParameter("name a registration, or say who and what, not both")
    else:
        request.registration_id = registration_id
    response = it.client.device_profiles.MatchDeviceProfile(request)
    if it.as_json:
        output.print_json(response)
        return
    output.print_table(response.steps, "precedence device_profile_id name enabled matched decides missing")
    output.print_line(f"{response.device_profile_id} {response.name}")


def _get(it: Invocation, profile_id: str) -> pb.GetDeviceProfileRequest:
    return pb.GetDeviceProfileRequest(organization_id=it.organization_id, device_profile_id=profile_id)


def _last_precedence(it: Invocation) -> int:
    request = pb.ListDeviceProfilesRequest(organization_id=it.organization_id)
    found = output.items(it.listed(it.client.device_profiles.ListDeviceProfiles, request))
    return max((profile.precedence for profile in found), default=0)


def _profile(fields: dict[str, Any], settings: dict[str, Any], file: Path | None) -> pb.DeviceProfile:
    """What the file says, and what is named beside it."""
    profile = pb.DeviceProfile()
    try:
        if file is not None:
            ParseDict(_content(file), profile)
        split_tunnel = settings.keys() & {"exclude", "include"}
        if split_tunnel:
            profile.settings.ClearField("split_tunnel")
        for name in settings:
            profile.settings.ClearField(name)  # type: ignore[arg-type]  # a list would grow instead
        ParseDict(
            {**{name: value for name, value in fields.items() if value is not None}, "settings": settings}, profile
        )
    except ParseError as error:
        raise typer.BadParameter(str(error)) from None
    for name in ("device_profile_id", "default", "create_time", "update_time", "etag"):
        # What `show --json` says besides; the server sets it.
        profile.ClearField(name)  # type: ignore[arg-type]
    return profile


def _content(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text()) if file.suffix == ".toml" else json.loads(file.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--file") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} is no profile", param_hint="--file")
    whole: dict[str, Any] = found.get("device_profile", found)
    return whole


def _settings(
    given: Iterable[str] | None, exclude: Sequence[str] | None, include: Sequence[str] | None
) -> dict[str, Any]:
    """As JSON has them."""
    if exclude and include:
        raise typer.BadParameter("it contradicts --include", param_hint="--exclude")
    found: dict[str, Any] = {}
    for setting in given or ():
        name, equals, text = setting.partition("=")
        _known(name, "--set")
        if not equals:
            raise typer.BadParameter(f"{setting!r} has no =", param_hint="--set")
        found[name] = _value(name, text)
    for kind, targets in (("exclude", exclude), ("include", include)):
        if targets:
            found[kind] = {"routes": [_route(target) for target in targets]}
    return found


def _known(name: str, option: str) -> None:
    if name not in SETTINGS:
        raise typer.BadParameter(f"there is no setting {name!r}: they are {', '.join(SETTINGS)}", param_hint=option)


def _value(name: str, text: str) -> Any:
    field = SETTINGS[name]
    if field.enum_type is not None:
        return f"TUNNEL_TYPE_{text.upper()}"
    if name == "service_mode":
        mode, _, port = text.partition(":")
        return {"mode": f"MODE_{mode.replace('-', '_').upper()}", **({"port": int(port)} if port.isdecimal() else {})}
    if name == "dns_search_suffixes":
        return {"suffixes": [suffix for suffix in text.split(",") if suffix]}
    if field.message_type is not None:
        raise typer.BadParameter(f"{name} has several parts: use --file, --exclude or --include", param_hint="--set")
    if field.cpp_type == field.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            raise typer.BadParameter(f"{name} is true or false", param_hint="--set")
        return text == "true"
    return text


def _route(target: str) -> dict[str, str]:
    """A network begins with a digit or has a colon; a host name does neither."""
    is_network = ":" in target or target.rpartition("/")[2].isdecimal() or target.replace(".", "").isdecimal()
    return {"address" if is_network else "host": target}


def _paths(profile: pb.DeviceProfile, reset: Iterable[str]) -> list[str]:
    """What an update names: what is there, each setting by itself."""
    fields = [field.name for field, _ in profile.ListFields() if field.name not in ("device_profile_id", "settings")]
    settings = [field.name for field, _ in profile.settings.ListFields()]
    return [*fields, *(f"settings.{name}" for name in dict.fromkeys([*settings, *reset]))]


def _warn(warnings: Iterable[str]) -> None:
    """Says what is done all the same, but probably not meant."""
    for warning in warnings:
        output.note(f"warning: {warning}")
