"""Access applications as domain values, from requests and from the feed: syntax, and which field is at fault."""

from collections.abc import Collection, Sequence
from typing import Any

from guardhouse.applications import (
    MAX_DURATION,
    Application,
    DeviceSessionSettings,
    Policy,
    PolicyDecision,
    SigningKey,
)
from guardhouse.durations import format_duration, parse_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid, InvalidField
from guardhouse.ids import IDENTITY_PROVIDER, check_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services import checks, rules
from guardhouse_services.session.domain.applications import MAX_POLICIES, MAX_PROVIDERS

PATHS = (
    *("display_name", "description", "session_duration", "policies"),
    *("identity_provider_ids", "binding_cookie", "device_session"),
)
SETTINGS_PATHS = ("session_duration", "apply_by_default")
NAME = 100


def fields(sent: pb.Application, paths: Collection[str] = PATHS) -> dict[str, Any]:
    """Those that the paths name. Raises InvalidField and DurationInvalid."""

    def read(path: str) -> Any:
        field = f"application.{path}"
        match path:
            case "display_name":
                return checks.text(sent.display_name, field, NAME)
            case "description":
                return checks.text(sent.description, field, 500, required=False)
            case "session_duration":
                return _duration(sent.session_duration, field)
            case "policies":
                checks.count(sent.policies, field, MAX_POLICIES, least=0)
                return tuple(_policy(policy, f"{field}[{place}]") for place, policy in enumerate(sent.policies))
            case "identity_provider_ids":
                return _identity_provider_ids(sent.identity_provider_ids, field)
            case "binding_cookie":
                return sent.binding_cookie
        return sent.device_session if sent.HasField("device_session") else None

    return {path: read(path) for path in PATHS if path in paths}


def application(of: pb.Application) -> Application:
    """One that was stored. Raises InvalidField and DurationInvalid for what only a newer release knows."""
    times = from_timestamp(of.create_time), from_timestamp(of.update_time)
    return Application(of.application_id, **fields(of), create_time=times[0], update_time=times[1])


def settings_fields(sent: pb.DeviceSessionSettings, paths: Collection[str] = SETTINGS_PATHS) -> dict[str, Any]:
    """Those that the paths name. Raises DurationInvalid."""
    found: dict[str, Any] = {"apply_by_default": sent.apply_by_default}
    duration = sent.session_duration
    if "session_duration" in paths:
        found["session_duration"] = parse_session_timeout(duration, "settings.session_duration") if duration else None
    return {path: found[path] for path in SETTINGS_PATHS if path in paths}


def settings(of: pb.DeviceSessionSettings) -> DeviceSessionSettings:
    """Those that were stored."""
    return DeviceSessionSettings(**settings_fields(of), update_time=from_timestamp(of.update_time))


def signing_key(of: pb.SigningKey) -> SigningKey:
    """One that was stored."""
    expire_time = from_timestamp(of.expire_time) if of.HasField("expire_time") else None
    return SigningKey(of.key_id, from_timestamp(of.create_time), from_timestamp(of.sign_time), expire_time)


def _duration(text: str, field: str) -> int:
    duration = parse_duration(text, field)
    if not 0 <= duration <= MAX_DURATION:
        longest = format_duration(MAX_DURATION)
        raise DurationInvalid(field, f"{field} is 0s, for signing in every time, to {longest}")
    return duration


def _identity_provider_ids(ids: Sequence[str], field: str) -> tuple[str, ...]:
    checks.count(ids, field, MAX_PROVIDERS, least=0)
    for place, each in enumerate(ids):
        check_id(each, IDENTITY_PROVIDER, f"{field}[{place}]")
        if each in ids[:place]:
            raise InvalidField(f"{field}[{place}]", f"{each} is named twice")
    return tuple(ids)


def _policy(sent: pb.ApplicationPolicy, field: str) -> Policy:
    return Policy(
        display_name=checks.text(sent.display_name, f"{field}.display_name", NAME),
        decision=PolicyDecision(checks.choice(sent.decision, list(PolicyDecision), f"{field}.decision")),
        include=rules.read(sent.include, f"{field}.include", least=1),
        require=rules.read(sent.require, f"{field}.require"),
        exclude=rules.read(sent.exclude, f"{field}.exclude"),
        session_duration=_duration(sent.session_duration, f"{field}.session_duration")
        if sent.session_duration
        else None,
    )
