"""From resources to lists and policies.

A policy that cannot be read in full is left out: without a condition it would cover more than was meant, and without
its session check it would limit nothing. What only adds to it, such as a block page, is noted.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.durations import format_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.terraform.resources import LIST, POLICY, Note, Resource, Template, Unknown, Value

FILTERS: Final = {"l4": pb.POLICY_FILTER_L4, "http": pb.POLICY_FILTER_HTTP, "dns": pb.POLICY_FILTER_DNS}
ACTIONS: Final = {"allow": pb.POLICY_ACTION_ALLOW, "block": pb.POLICY_ACTION_BLOCK}
LIST_TYPES: Final = {
    "IP": pb.LIST_TYPE_IP,
    "DOMAIN": pb.LIST_TYPE_HOST,
    "EMAIL": pb.LIST_TYPE_EMAIL,
    "SERIAL": pb.LIST_TYPE_TEXT,
    "URL": pb.LIST_TYPE_TEXT,
    "INTEGER": pb.LIST_TYPE_INTEGER,
}
"""Terraform's provider has no INTEGER: that is what our own export calls it."""

DAYS: Final = {
    "mon": "monday",
    "tue": "tuesday",
    "wed": "wednesday",
    "thu": "thursday",
    "fri": "friday",
    "sat": "saturday",
    "sun": "sunday",
}
MAX_PRECEDENCE: Final = 1_000_000

_POLICY_ATTRIBUTES: Final = frozenset(
    {
        *("name", "description", "enabled", "precedence", "action", "filters", "traffic", "identity", "device_posture"),
        *("rule_settings", "schedule", "expiration"),
    }
)
_LIST_ATTRIBUTES: Final = frozenset({"name", "description", "type", "items", "items_with_description"})
_PASSED_OVER: Final = frozenset(
    # What the server sets, and Terraform's own arguments, say nothing about a policy. The account is noted once.
    {
        *("account_id", "id", "created_at", "updated_at", "deleted_at", "version", "read_only", "sharable"),
        *("source_account", "warning_status", "not_found", "list_count"),
        *("provider", "depends_on", "lifecycle", "provisioner", "connection", "timeouts"),
    }
)
_REPEATED: Final = frozenset({"count", "for_each", "dynamic"})

_LIST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}")
_LIST_ID: Final = rf"(?:data\.)?{LIST}\.[A-Za-z0-9_-]+\.id"
_USED_LIST: Final = re.compile(rf'"(?:\\.|[^"\\])*"|\$\{{(?P<id>{_LIST_ID})\}}|\$(?P<name>[A-Za-z0-9_.-]+)', re.DOTALL)
"""Texts come first: a dollar in a pattern names no list. An id in braces is what an escape that was not needed left."""

_IMPORT_SHOWN: Final = "give what `terraform show -json` prints once it is applied"


@dataclass(frozen=True, slots=True)
class Import:
    """What a file has for us, in its order, each with the address of its resource, and what it has besides."""

    lists: Sequence[tuple[str, pb.List]]
    policies: Sequence[tuple[str, pb.Policy]]
    notes: Sequence[Note]


class _LeftOut(Exception):
    """Why a resource cannot be imported."""

    def __init__(self, attribute: str, message: str) -> None:
        super().__init__(message)
        self.attribute = attribute
        self.message = message


def read(resources: Sequence[Resource], existing: Collection[str] = ()) -> Import:
    """Map them. `existing` are the names of lists that are there already, which expressions may use as well."""
    reader = _Reader(frozenset(existing))
    reader.read_lists([it for it in resources if it.type == LIST])
    reader.read_policies([it for it in resources if it.type == POLICY])
    reader.note_others(resources)
    return Import(reader.lists, reader.policies, reader.notes)


@dataclass
class _Reader:
    existing: frozenset[str]
    lists: list[tuple[str, pb.List]] = field(default_factory=list)
    policies: list[tuple[str, pb.Policy]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """The name of a list by what Terraform calls it: its address with .id, or the id that it has in a state."""

    def read_lists(self, resources: Sequence[Resource]) -> None:
        taken: set[str] = set()
        for resource in resources:
            try:
                found = self._list(resource, taken)
            except _LeftOut as reason:
                self._left_out(resource, reason)
                continue
            taken.add(found.name)
            self.lists.append((resource.address, found))
            self.names[f"{resource.address}.id"] = found.name
            if isinstance(uuid := resource.attributes.get("id"), str):
                self.names[uuid] = found.name

    def read_policies(self, resources: Sequence[Resource]) -> None:
        names: dict[str, str] = {}
        precedences: dict[int, str] = {}
        for resource in resources:
            try:
                found = self._policy(resource)
                if other := names.get(found.display_name):
                    raise _LeftOut("name", f"{other} has this name as well, and a policy is known by its name")
                if found.HasField("precedence") and (other := precedences.get(found.precedence)):
                    raise _LeftOut("precedence", f"{other} has {found.precedence} as well, and it must be unique")
            except _LeftOut as reason:
                self._left_out(resource, reason)
                continue
            names[found.display_name] = resource.address
            if found.HasField("precedence"):
                precedences[found.precedence] = resource.address
            self.policies.append((resource.address, found))

    def note_others(self, resources: Sequence[Resource]) -> None:
        """What is neither a list nor a policy, by type, and the accounts, once for all."""
        others = Counter(it.type for it in resources if it.type not in (LIST, POLICY))
        for kind, number in others.items():
            if kind == "module":
                message = "what modules make is not in this file: " + _IMPORT_SHOWN
            else:
                message = f"passed over, {number} of them: neither a gateway policy nor a list"
            self.notes.append(Note(kind, "", message))
        accounts = sum(not _asks_nothing(it.attributes.get("account_id")) for it in resources if it.type not in others)
        if accounts:
            self.notes.append(Note("", "account_id", "passed over: everything goes to one organization"))

    def _left_out(self, resource: Resource, reason: _LeftOut) -> None:
        self.notes.append(Note(resource.address, reason.attribute, reason.message, left_out=True))

    def _note(self, resource: Resource, attribute: str, message: str) -> None:
        self.notes.append(Note(resource.address, attribute, message))

    # Lists

    def _list(self, resource: Resource, taken: Collection[str]) -> pb.List:
        attributes = _known(resource, _LIST_ATTRIBUTES)
        wanted = self._text(attributes, "name")
        name = next((it for it in (wanted, resource.label) if _LIST_NAME.fullmatch(it) and it not in taken), "")
        if not name:
            raise _LeftOut("name", "neither it nor the resource's label can name a list here, or another list has both")
        kind = self._text(attributes, "type")
        if kind not in LIST_TYPES:
            raise _LeftOut("type", f"lists of type {kind!r} have no counterpart")
        found = pb.List(
            name=name,
            description=self._text(attributes, "description"),
            type=LIST_TYPES[kind],
            values=dict.fromkeys(self._values(resource, attributes)),
        )
        if name != wanted:
            self._note(resource, "name", f"{wanted!r} cannot be written in an expression; it becomes {name!r}")
        if kind == "URL":
            self._note(resource, "type", "becomes a list of texts, which are compared to the letter")
        return found

    def _values(self, resource: Resource, attributes: Mapping[str, Value]) -> Iterator[str]:
        described = 0
        for attribute in ("items", "items_with_description"):
            for item in _several(attributes.get(attribute), attribute):
                value = item
                if isinstance(item, dict):
                    described += not _asks_nothing(item.get("description"))
                    value = item.get("value")
                yield self._as_text(str(value) if type(value) is int else value, attribute)
        if described:
            self._note(resource, "items", f"the descriptions of {described} values have no counterpart")

    # Policies

    def _policy(self, resource: Resource) -> pb.Policy:
        attributes = _known(resource, _POLICY_ATTRIBUTES)
        name = self._text(attributes, "name")
        if not name:
            raise _LeftOut("name", "a policy needs one")
        action = self._text(attributes, "action")
        if action not in ACTIONS:
            raise _LeftOut("action", f"the action {action!r} has no counterpart: allow and block do")
        filter_ = self._filter(attributes)
        policy = pb.Policy(
            display_name=name,
            description=self._text(attributes, "description"),
            enabled=self._enabled(resource, attributes),
            filter=filter_,
            action=ACTIONS[action],
            precedence=_precedence(attributes),
            traffic=self._expression(attributes, "traffic"),
            identity=self._expression(attributes, "identity"),
            device_posture=self._expression(attributes, "device_posture"),
        )
        self._settings(resource, attributes, policy)
        self._schedule(attributes, policy)
        self._expiration(resource, attributes, policy)
        return policy

    def _filter(self, attributes: Mapping[str, Value]) -> pb.PolicyFilter.ValueType:
        found = [self._as_text(it, "filters") for it in _several(attributes.get("filters"), "filters")]
        if len(found) != 1:
            raise _LeftOut("filters", f"a policy has exactly one, and this has {len(found)}")
        if found[0] not in FILTERS:
            raise _LeftOut("filters", f"the filter {found[0]!r} has no counterpart: l4, http and dns do")
        return FILTERS[found[0]]

    def _enabled(self, resource: Resource, attributes: Mapping[str, Value]) -> bool:
        value = attributes.get("enabled")
        if value is None:
            self._note(resource, "enabled", "it is not set, and then a policy is disabled")
        return _flag(value, "enabled")

    def _settings(self, resource: Resource, attributes: Mapping[str, Value], policy: pb.Policy) -> None:
        settings = _one(attributes.get("rule_settings"), "rule_settings")
        for name, value in settings.items():
            if name != "check_session" and not _asks_nothing(value):
                self._note(resource, f"rule_settings.{name}", "has no counterpart; the policy is made without it")
        attribute = "rule_settings.check_session"
        check = _one(settings.get("check_session"), attribute)
        asks_nothing = all(map(_asks_nothing, check.values()))
        if policy.filter == pb.POLICY_FILTER_DNS or policy.action != pb.POLICY_ACTION_ALLOW:
            if asks_nothing:
                return
            raise _LeftOut(attribute, "only l4 and http policies that allow have one")
        if asks_nothing:
            if check.get("enforce") is False:
                policy.check_session.enforce = False
            return
        duration = f"{attribute}.duration"
        try:
            timeout = parse_session_timeout(self._as_text(check.get("duration"), duration), "it")
        except DurationInvalid as error:
            raise _LeftOut(duration, error.message) from None
        policy.check_session.enforce = _flag(check.get("enforce"), f"{attribute}.enforce")
        policy.check_session.duration = format_duration(timeout)

    def _schedule(self, attributes: Mapping[str, Value], policy: pb.Policy) -> None:
        schedule = self._of_dns(attributes, "schedule", policy)
        if not schedule:
            return
        for name, value in schedule.items():
            if name != "time_zone" and name not in DAYS:
                raise _LeftOut(f"schedule.{name}", "there is no such day")
            setattr(policy.schedule, DAYS.get(name, name), self._as_text(value, f"schedule.{name}"))
        if not policy.schedule.time_zone:
            raise _LeftOut("schedule.time_zone", "it is not set, and the time where somebody is has no counterpart")

    def _expiration(self, resource: Resource, attributes: Mapping[str, Value], policy: pb.Policy) -> None:
        expiration = self._of_dns(attributes, "expiration", policy)
        if not expiration:
            return
        time = Timestamp()
        try:
            time.FromJsonString(self._as_text(expiration.get("expires_at"), "expiration.expires_at"))
        except ValueError:
            raise _LeftOut("expiration.expires_at", "it is no time such as 2027-01-01T05:20:20Z") from None
        policy.expire_time.CopyFrom(time)
        for name, value in expiration.items():
            if name not in ("expires_at", "expired") and not _asks_nothing(value):
                self._note(resource, f"expiration.{name}", "has no counterpart; the policy is made without it")

    def _of_dns(self, attributes: Mapping[str, Value], attribute: str, policy: pb.Policy) -> Mapping[str, Value]:
        found = _one(attributes.get(attribute), attribute)
        if all(map(_asks_nothing, found.values())):
            return {}
        if policy.filter != pb.POLICY_FILTER_DNS:
            raise _LeftOut(attribute, "only DNS policies have one")
        return found

    # Texts

    def _expression(self, attributes: Mapping[str, Value], attribute: str) -> str:
        """With the lists by their names."""

        def named(found: re.Match[str]) -> str:
            if found["id"]:
                return "$" + self._list_name(found["id"], attribute)
            name: str | None = found["name"]
            if name is None:
                return found[0]
            if name in self.names:
                return "$" + self.names[name]
            if name in self.existing or any(name == known for known in self.names.values()):
                return found[0]
            raise _LeftOut(attribute, f"the list ${name} is neither in the file nor here")

        return _USED_LIST.sub(named, self._text(attributes, attribute))

    def _text(self, attributes: Mapping[str, Value], attribute: str) -> str:
        return self._as_text(attributes.get(attribute), attribute)

    def _as_text(self, value: Value, attribute: str) -> str:
        match value:
            case None:
                return ""
            case Unknown():
                text = self._list_name(value.text, attribute)
            case Template(parts):
                text = "".join(
                    part if isinstance(part, str) else self._list_name(part.text, attribute) for part in parts
                )
            case str():
                text = value
            case _:
                raise _LeftOut(attribute, "it is no text")
        if re.search(r"[\ud800-\udfff]", text):
            raise _LeftOut(attribute, "it has half a character")
        return text

    def _list_name(self, source: str, attribute: str) -> str:
        """What expressions call the list that Terraform calls so."""
        if source in self.names:
            return self.names[source]
        if not re.fullmatch(_LIST_ID, source):
            raise _unknown(source, attribute)
        label = source.split(".")[-2]
        if label in self.existing:
            return label
        raise _LeftOut(attribute, f"the list {label} is not in the file, or left out, and there is none of this name")


def _known(resource: Resource, attributes: Collection[str]) -> Mapping[str, Value]:
    """The resource's attributes. Raises _LeftOut for one that we do not know, which might say anything."""
    for name, value in resource.attributes.items():
        if name in _REPEATED:
            raise _LeftOut(name, f"only Terraform knows how many there are: {_IMPORT_SHOWN}")
        if name not in attributes and name not in _PASSED_OVER and not _asks_nothing(value):
            raise _LeftOut(name, "it is not known here what that means")
    return resource.attributes


def _precedence(attributes: Mapping[str, Value]) -> int | None:
    value = attributes.get("precedence")
    if value is None:
        return None
    if isinstance(value, Unknown | Template):
        raise _unknown(_source(value), "precedence")
    if type(value) is not int or not 1 <= value <= MAX_PRECEDENCE:
        raise _LeftOut("precedence", f"it is a number from 1 to {MAX_PRECEDENCE}")
    return value


def _flag(value: Value, attribute: str) -> bool:
    if isinstance(value, Unknown | Template):
        raise _unknown(_source(value), attribute)
    if value is not None and not isinstance(value, bool):
        raise _LeftOut(attribute, "it is true or false")
    return bool(value)


def _one(value: Value, attribute: str) -> Mapping[str, Value]:
    """An object, or a block that stands once, which a state has as a list."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if _asks_nothing(value):
        return {}
    if isinstance(value, Unknown | Template):
        raise _unknown(_source(value), attribute)
    if not isinstance(value, dict):
        raise _LeftOut(attribute, "it stands once, in braces")
    return value


def _several(value: Value, attribute: str) -> list[Value]:
    if isinstance(value, Unknown | Template):
        raise _unknown(_source(value), attribute)
    if isinstance(value, dict):  # A block that stands once.
        return [value]
    if value is not None and not isinstance(value, list):
        raise _LeftOut(attribute, "it is a list, in brackets")
    return value or []


def _asks_nothing(value: Value) -> bool:
    """Whether leaving it out is the same, as with null, false and what is empty."""
    return value is None or value is False or value in ("", [], {})


def _source(value: Unknown | Template) -> str:
    return value.text if isinstance(value, Unknown) else "".join(str(getattr(it, "text", it)) for it in value.parts)


def _unknown(source: str, attribute: str) -> _LeftOut:
    if source == "known after apply":
        return _LeftOut(attribute, f"it is known only after the apply: give the .tf file, or {_IMPORT_SHOWN}")
    return _LeftOut(attribute, f"only Terraform knows {source}: {_IMPORT_SHOWN}")
