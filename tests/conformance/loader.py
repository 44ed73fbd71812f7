"""Reads the conformance files, as docs/conformance.md describes them, and turns each scenario into events of the feeds
and checks. Whatever decides (the server, a checker inside of a gateway) is fed with the one and asked the other."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.durations import parse_duration
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb

FOLDER: Final = Path(__file__).parent
UNKNOWN: Final = "unknown"
"""Names what does not exist."""
PRECEDENCE, STEP = 1000, 100
"""Of the first policy without one, and how far behind the others the next comes, as the contract has it."""

_SECOND: Final = 1_000_000
_STATE: Final = (
    *("users", "registrations", "lists", "policies", "default_action", "identity_providers"),
    *("applications", "device_sessions"),
)
_SETTINGS: Final = (*_STATE, "now", "max_staleness")
_ANSWERS: Final = (
    *("decision", "reason", "policy", "registration", "user"),
    *("authenticate_time", "session_expire_time", "valid_for", "degraded"),
)


class FileInvalid(Exception):
    """A file that is not written as docs/conformance.md says."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """A session that LogIn has begun, of a user or a service token: the other id is empty. `revision` is identity's of
    the authentication. `bound` says that its binding is sent along."""

    user_id: str
    service_token_id: str
    identity_provider_id: str
    authenticate_time: int
    revision: int
    bound: bool


@dataclass(frozen=True, slots=True)
class ApplicationCheck:
    """A request without the session_token and the binding, which are to be those of `sign_in`."""

    request: pb.CheckApplicationRequest
    sign_in: SignIn | None


@dataclass(frozen=True, slots=True)
class Check:
    """A question, asked at a time when the state was last proven `staleness` ago; None is never. Times and durations
    are microseconds.

    `expected` has what the answer must say, by the names of the format: ids are names again, and times microseconds.
    """

    name: str
    time: int
    staleness: int | None
    question: pb.CheckSessionRequest | pb.CheckTrafficRequest | ApplicationCheck
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """What each feed says, in order, and what is asked then. `installation` is identity's feed without an organization,
    the others are of the scenario's."""

    installation: Sequence[identity.Event]
    identity: Sequence[identity.Event]
    registry: Sequence[registry.Event]
    session: Sequence[pb.Event]
    checks: Sequence[Check]


@dataclass(frozen=True, slots=True)
class Scenario:
    file: str
    name: str
    organization_id: str
    now: int
    max_staleness: int
    steps: Sequence[Step]
    names: Mapping[str, str]
    """By id."""

    def said(
        self,
        *,
        decision: Any,
        reason: Any,
        policy_id: str,
        registration_id: str,
        user_id: str,
        authenticate_time: int | None,
        session_expire_time: int | None,
        valid_for: int,
        degraded: bool,
    ) -> dict[str, Any]:
        """An answer, by the names of CheckAnswer's fields, as `expected` has it. Ids are empty where there is none."""

        def name(value: str) -> str | None:
            return self.names.get(value, value) or None

        return {
            "decision": pb.Decision.Name(decision).removeprefix("DECISION_"),
            "reason": pb.DecisionReason.Name(reason).removeprefix("DECISION_REASON_"),
            "policy": name(policy_id),
            "registration": name(registration_id),
            "user": name(user_id),
            "authenticate_time": authenticate_time,
            "session_expire_time": session_expire_time,
            "valid_for": valid_for,
            "degraded": degraded,
        }

    def said_by(self, answer: pb.CheckAnswer, degraded: bool) -> dict[str, Any]:
        """The same of the contract's message."""

        def time(field: Literal["authenticate_time", "session_expire_time"]) -> int | None:
            return _microseconds(getattr(answer, field)) if answer.HasField(field) else None

        return self.said(
            decision=answer.decision,
            reason=answer.reason,
            policy_id=answer.policy_id,
            registration_id=answer.registration_id,
            user_id=answer.user_id,
            authenticate_time=time("authenticate_time"),
            session_expire_time=time("session_expire_time"),
            valid_for=_microseconds(answer.valid_for),
            degraded=degraded,
        )


@cache
def scenarios() -> tuple[Scenario, ...]:
    """Those of all files."""
    return tuple(scenario for path in sorted(FOLDER.glob("*.yaml")) for scenario in read(path))


def read(path: Path) -> list[Scenario]:
    """Raises FileInvalid, which names the place."""
    content = _taken(_parsed(path), path.stem, ("about", "scenarios"), ("given",))
    _text(content["about"], f"{path.stem}: about")
    given = _taken(content.get("given", {}), f"{path.stem}: given", (), _SETTINGS)
    found = [_Reader(path.stem, given).scenario(each) for each in _sequence(content["scenarios"], path.stem)]
    _once((scenario.name for scenario in found), path.stem)
    return found


def identify(prefix: str, name: str) -> str:
    """The id of what the files call by a name."""
    return f"{prefix}_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


class _Yaml(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """YAML 1.2's core schema, so that 08:00 is a text and no is not false, and every key once."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}


_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$"), list("tf"))
_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(null|~)$"), list("n~"))
_Yaml.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?[0-9]+$"), list("-0123456789"))


def _mapping(loader: _Yaml, node: yaml.MappingNode) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise FileInvalid(f"{key!r} stands twice: {key_node.start_mark}")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Yaml.add_constructor("tag:yaml.org,2002:map", _mapping)


def _parsed(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), _Yaml)


class _Reader:
    """Reads one scenario.

    A revision of identity is the time at which something happened, in microseconds: what comes later is higher, and a
    removal or a revocation at the same time as an authentication is behind it, which is what an equal revision means.
    """

    def __init__(self, file: str, given: Mapping[str, Any]) -> None:
        self._where = file
        self._file = file
        self._given = given
        self._now = 0
        self._names: dict[str, str] = {}
        self._kinds: dict[str, set[str]] = {}
        self._authenticated: set[str] = set()
        self._precedences: dict[str, int] = {}
        self._issuers: dict[str, str] = {}

    def scenario(self, content: Any) -> Scenario:
        content = _taken(content, self._where, ("name", "source", "checks"), (*_SETTINGS, "then"))
        name = _text(content["name"], self._where)
        self._where = f"{self._file}: {name}"
        _text(content["source"], f"{self._where}: source")
        settings = {**self._given, **content}
        for part in ("users", "registrations"):
            settings[part] = {**self._given.get(part, {}), **content.get(part, {})}
        for part, key in (("lists", "name"), ("policies", "display_name"), ("applications", "display_name")):
            named = [*self._given.get(part, ()), *content.get(part, ())]
            settings[part] = list({each.get(key): each for each in named}.values())
        self._now = _time(settings.get("now", "2026-01-01T00:00:00Z"), self._where)
        steps = [self._step({key: value for key, value in settings.items() if key in (*_STATE, "checks")})]
        thens = (_taken(then, self._where, ("checks",), (*_STATE, "deleted")) for then in content.get("then", ()))
        steps += map(self._step, thens)
        _once((check.name for step in steps for check in step.checks), self._where)
        return Scenario(
            self._file,
            name,
            self._id("org", "organization"),
            self._now,
            _duration(settings.get("max_staleness", "30s"), self._where),
            steps,
            self._names,
        )

    def _step(self, content: Mapping[str, Any]) -> Step:
        users, registrations = content.get("users", {}), content.get("registrations", {})
        kinds = ("registrations", "lists", "policies", "applications")
        deleted = _taken(content.get("deleted", {}), self._where, (), kinds)
        of_registry = [self._registration_deleted(name) for name in deleted.get("registrations", ())]
        of_session = [self._policy_deleted(name) for name in deleted.get("policies", ())]
        of_identity = [*self._identity_providers(content.get("identity_providers", ())), *self._users(users)]
        for name, registration in registrations.items():
            enrolled, authenticated = self._registration(name, registration)
            of_registry.append(enrolled)
            of_identity += authenticated
        of_session += [pb.Event(list=self._list(each)) for each in content.get("lists", ())]
        of_session += [pb.Event(policy=self._policy(each)) for each in content.get("policies", ())]
        of_session += [self._list_deleted(name) for name in deleted.get("lists", ())]
        of_session += [
            pb.Event(application_deleted=self._found("app", name)) for name in deleted.get("applications", ())
        ]
        of_session += [pb.Event(application=self._application(each)) for each in content.get("applications", ())]
        if "device_sessions" in content:
            of_session.append(pb.Event(device_session_settings=self._device_sessions(content["device_sessions"])))
        checks = [self._check(check) for check in _sequence(content["checks"], self._where)]
        return Step(self._organization(content), of_identity, of_registry, of_session, checks)

    def _registration_deleted(self, name: str) -> registry.Event:
        return registry.Event(registration_deleted=self._found("reg", name))

    def _policy_deleted(self, name: str) -> pb.Event:
        self._precedences.pop(name, None)
        return pb.Event(policy_deleted=self._found("pol", name))

    def _list_deleted(self, name: str) -> pb.Event:
        return pb.Event(list_deleted=self._found("lst", name))

    def _organization(self, content: Mapping[str, Any]) -> list[identity.Event]:
        if "default_action" not in content:
            return []
        action = _chosen(identity.DefaultAction, "DEFAULT_ACTION_", content["default_action"], self._where)
        of = identity.Organization(organization_id=self._id("org", "organization"))
        of.default_action = action  # type: ignore[assignment]
        return [identity.Event(organization=of)]

    def _identity_providers(self, issuers: Sequence[str]) -> Iterator[identity.Event]:
        for issuer in issuers:
            provider = identity.IdentityProvider(identity_provider_id=self._id("idp", issuer), issuer=issuer)
            yield identity.Event(identity_provider=provider)

    def _users(self, users: Mapping[str, Any]) -> Iterator[identity.Event]:
        optional = ("email", "display_name", "groups", "claims", "issuer", "removed", "revoked", "known")
        for name, given in users.items():
            content = _taken(given, f"{self._where}: {name}", (), optional)
            user = identity.User(
                user_id=self._id("usr", name),
                email=content.get("email", ""),
                display_name=content.get("display_name", ""),
                groups=content.get("groups", ()),
                oidc_claims=content.get("claims", ()),
                issuer=content.get("issuer", ""),
            )
            self._issuers[name] = user.issuer
            record = identity.UserRecord(user=user)
            if "removed" in content:
                record.removed_revision = self._at(content["removed"])
            if "revoked" in content:
                record.revoked_revision = self._at(content["revoked"])
            if content.get("known", True):
                yield identity.Event(user=record)

    def _registration(self, name: str, content: Any) -> tuple[registry.Event, list[identity.Event]]:
        where = f"{self._where}: {name}"
        optional = ("state", "enrolled", "authenticated", "recorded", "ipv4", "ipv6", "posture")
        content = _taken(content, where, (), ("user", "service_token", *optional))
        if ("user" in content) is ("service_token" in content):
            raise FileInvalid(f"{where}: either user or service_token")
        registration_id = self._id("reg", name)
        of = registry.Registration(registration_id=registration_id)
        of.ipv4, of.ipv6 = content.get("ipv4", ""), content.get("ipv6", "")
        of.state = _chosen(  # type: ignore[assignment]
            registry.RegistrationState, "REGISTRATION_STATE_", content.get("state", "ACTIVE"), where
        )
        if "user" in content:
            of.user_id = self._found("usr", content["user"])
        else:
            of.service_token_id = self._id("svt", content["service_token"])
        enrolled = content.get("enrolled", "0s")
        record = registry.RegistrationRecord(
            registration=of,
            authenticate_time=_timestamp(self._at(enrolled)),
            authorize_revision=self._at(enrolled),
        )
        if "posture" in content:
            posture = _taken(content["posture"], where, (), ("passed", "failed", "reported"))
            record.posture.passed.extend(posture.get("passed", ()))
            record.posture.failed.extend(posture.get("failed", ()))
            record.posture.report_time.CopyFrom(_timestamp(self._at(posture.get("reported", "0s"))))
        return registry.Event(registration=record), self._authentication(name, registration_id, content)

    def _authentication(self, name: str, registration_id: str, content: Mapping[str, Any]) -> list[identity.Event]:
        if "authenticated" not in content:
            if name not in self._authenticated:
                return []
            self._authenticated.remove(name)
            return [identity.Event(authentication_deleted=registration_id)]
        self._authenticated.add(name)
        fact = identity.Authentication(
            registration_id=registration_id,
            authenticate_time=_timestamp(self._at(content["authenticated"])),
            revision=self._at(content.get("recorded", content["authenticated"])),
        )
        return [identity.Event(authentication=fact)]

    def _list(self, content: Any) -> pb.List:
        made: pb.List = self._message(content, pb.List(), "name")
        made.list_id = self._id("lst", made.name)
        made.value_count = len(made.values)
        return made

    def _policy(self, content: Any) -> pb.Policy:
        made: pb.Policy = self._message(content, pb.Policy(), "display_name")
        made.policy_id = self._id("pol", made.display_name)
        if not made.HasField("precedence"):
            before = self._precedences.get(made.display_name)
            behind_all = max(self._precedences.values(), default=PRECEDENCE - STEP) + STEP
            made.precedence = behind_all if before is None else before
        self._precedences[made.display_name] = made.precedence
        if len(set(self._precedences.values())) < len(self._precedences):
            raise FileInvalid(f"{self._where}: precedence {made.precedence} stands twice")
        return made

    def _application(self, content: Any) -> pb.Application:
        """Names of identity providers and service tokens become ids."""
        made: pb.Application = self._message(content, pb.Application(), "display_name")
        made.application_id = self._id("app", made.display_name)
        made.session_duration = made.session_duration or "24h0m0s"
        made.identity_provider_ids[:] = [self._found("idp", name) for name in made.identity_provider_ids]
        for policy in made.policies:
            for rule in (*policy.include, *policy.require, *policy.exclude):
                if rule.HasField("login_method"):
                    rule.login_method = self._found("idp", rule.login_method)
                elif rule.HasField("service_token_id"):
                    rule.service_token_id = self._id("svt", rule.service_token_id)
        return made

    def _device_sessions(self, content: Any) -> pb.DeviceSessionSettings:
        settings: pb.DeviceSessionSettings = self._parsed(content, pb.DeviceSessionSettings())
        return settings

    def _message(self, content: Any, message: Any, key: str) -> Any:
        self._parsed(content, message)
        _text(getattr(message, key), f"{self._where}: {key}")
        return message

    def _parsed(self, content: Any, message: Any) -> Any:
        try:
            return json_format.ParseDict(content, message)
        except json_format.ParseError as refused:
            raise FileInvalid(f"{self._where}: {refused}") from None

    def _check(self, content: Any) -> Check:
        kinds = ("session", "traffic", "application")
        content = _taken(content, self._where, ("name", "expect"), ("at", "staleness", *kinds))
        name = _text(content["name"], self._where)
        where = f"{self._where}: {name}"
        if len([kind for kind in kinds if kind in content]) != 1:
            raise FileInvalid(f"{where}: one of {', '.join(kinds)}")
        staleness = content.get("staleness", "0s")
        organization_id = self._id("org", "organization")
        question: pb.CheckSessionRequest | pb.CheckTrafficRequest | ApplicationCheck
        if "application" in content:
            question = self._application_check(content["application"], where)
            question.request.organization_id = organization_id
        elif "session" in content:
            asked = _taken(content["session"], where, ("registration", "policy"))
            question = pb.CheckSessionRequest(
                organization_id=organization_id,
                registration_id=self._found("reg", asked["registration"]),
                policy_id=self._found("pol", asked["policy"]),
            )
        else:
            question = self._traffic(content["traffic"], where)
            question.organization_id = organization_id
        return Check(
            name,
            self._at(content.get("at", "0s")),
            None if staleness == "never" else _duration(staleness, where),
            question,
            self._expected(content["expect"], where, by_name="application" in content),
        )

    def _application_check(self, content: Any, where: str) -> ApplicationCheck:
        asked = _taken(content, where, ("name",), ("registration", "address", "sign_in", "ip", "country"))
        if "registration" in asked and "address" in asked:
            raise FileInvalid(f"{where}: registration or address")
        request = pb.CheckApplicationRequest(application_id=self._found("app", asked["name"]))
        if "registration" in asked:
            request.registration_id = self._found("reg", asked["registration"])
        elif "address" in asked:
            request.address = _text(asked["address"], where)
        request.client.ip, request.client.country = asked.get("ip", ""), asked.get("country", "")
        return ApplicationCheck(request, self._sign_in(asked["sign_in"], where) if "sign_in" in asked else None)

    def _sign_in(self, content: Any, where: str) -> SignIn:
        optional = ("user", "service_token", "issuer", "authenticated", "recorded", "bound")
        content = _taken(content, where, (), optional)
        if ("user" in content) is ("service_token" in content):
            raise FileInvalid(f"{where}: either user or service_token")
        user, token = content.get("user"), content.get("service_token")
        issuer = content.get("issuer") or self._issuers.get(user) or UNKNOWN
        authenticated = content.get("authenticated", "0s")
        return SignIn(
            self._found("usr", user) if user else "",
            self._id("svt", token) if token else "",
            self._found("idp", issuer) if user else "",
            self._at(authenticated),
            self._at(content.get("recorded", authenticated)),
            content.get("bound", False) is True,
        )

    def _traffic(self, content: Any, where: str) -> pb.CheckTrafficRequest:
        asked = _taken(content, where, ("kind",), ("registration", "address", "fields", "lists"))
        if ("registration" in asked) is ("address" in asked):
            raise FileInvalid(f"{where}: either registration or address")
        question = pb.CheckTrafficRequest(kind=_chosen(pb.TrafficKind, "TRAFFIC_KIND_", asked["kind"], where))  # type: ignore[arg-type]
        if "registration" in asked:
            question.registration_id = self._found("reg", asked["registration"])
        else:
            question.address = _text(asked["address"], where)
        for field, value in asked.get("fields", {}).items():
            question.traffic.fields[field] = _value(value, f"{where}: {field}")
        for field, values in asked.get("lists", {}).items():
            question.traffic.lists[field].values.extend(_value(value, f"{where}: {field}") for value in values)
            question.traffic.lists[field].SetInParent()
        return question

    def _expected(self, content: Any, where: str, by_name: bool) -> dict[str, Any]:
        """A policy of an application has no id."""
        expected = _taken(content, where, ("decision", "reason"), _ANSWERS)
        _chosen(pb.Decision, "DECISION_", expected["decision"], where)
        _chosen(pb.DecisionReason, "DECISION_REASON_", expected["reason"], where)
        for part, prefix in (("policy", "pol"), ("registration", "reg"), ("user", "usr")):
            if expected.get(part) is not None and not (by_name and part == "policy"):
                self._found(prefix, expected[part])
        for part in ("authenticate_time", "session_expire_time"):
            if expected.get(part) is not None:
                expected[part] = self._at(expected[part])
        if "valid_for" in expected:
            expected["valid_for"] = _duration(expected["valid_for"], where)
        expected.setdefault("degraded", False)
        return expected

    def _id(self, prefix: str, name: Any) -> str:
        """Of something that exists."""
        if _text(name, self._where) == UNKNOWN:
            raise FileInvalid(f"{self._where}: {UNKNOWN} is the name of what does not exist")
        made = identify(prefix, name)
        self._names[made] = name
        self._kinds.setdefault(prefix, set()).add(name)
        return made

    def _found(self, prefix: str, name: Any) -> str:
        """Of something that was given before, or of what does not exist."""
        if name != UNKNOWN and name not in self._kinds.get(prefix, ()):
            raise FileInvalid(f"{self._where}: {name!r} is not given")
        return identify(prefix, _text(name, self._where))

    def _at(self, offset: Any) -> int:
        return self._now + _duration(offset, self._where)


def _taken(content: Any, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping with these keys and no others."""
    required = tuple(required)
    if not isinstance(content, Mapping):
        raise FileInvalid(f"{where}: this is no mapping: {content!r}")
    for key in required:
        if key not in content:
            raise FileInvalid(f"{where}: {key} is missing")
    for key in content:
        if key not in (*required, *optional):
            raise FileInvalid(f"{where}: {key!r} does not belong here; {', '.join((*required, *optional))} do")
    return dict(content)


def _sequence(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list) or not content:
        raise FileInvalid(f"{where}: this is no sequence, or an empty one")
    return content


def _once(names: Iterable[str], where: str) -> None:
    known: set[str] = set()
    for name in names:
        if name in known:
            raise FileInvalid(f"{where}: {name!r} stands twice")
        known.add(name)


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str) or not content:
        raise FileInvalid(f"{where}: this is no text: {content!r}")
    return content


def _value(content: Any, where: str) -> str:
    return "" if content == "" else _text(content, where)


def _chosen(enum: Any, prefix: str, name: Any, where: str) -> int:
    """The number of an enum's value, which is written without its prefix."""
    known = [each.removeprefix(prefix) for each, number in enum.items() if number]
    if name not in known:
        raise FileInvalid(f"{where}: {name!r} is none of {', '.join(known)}")
    return int(enum.Value(f"{prefix}{name}"))


def _duration(content: Any, where: str) -> int:
    return parse_duration(_text(content, where), where)


def _time(content: Any, where: str) -> int:
    stamp = Timestamp()
    stamp.FromJsonString(_text(content, where))
    return _microseconds(stamp)


def _microseconds(of: Timestamp | Duration) -> int:
    return of.seconds * _SECOND + of.nanos // 1000


def _timestamp(time: int) -> Timestamp:
    return Timestamp(seconds=time // _SECOND, nanos=time % _SECOND * 1000)
