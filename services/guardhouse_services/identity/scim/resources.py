"""Our resources as the models of the protocol, and back."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from scim2_models import (
    AuthenticationScheme,
    Bulk,
    ChangePassword,
    EnterpriseUser,
    ETag,
    Filter,
    Group,
    InvalidValueException,
    Patch,
    ResourceType,
    ScimPolicy,
    ScimProvider,
    ServiceProviderConfig,
    Sort,
    User,
    default_comparison_key,
)
from scim2_models import Path as ScimPath

from guardhouse.ids import SCIM_GROUP
from guardhouse_services.checks import CONTROL
from guardhouse_services.identity.domain.scim import Kind, Member, Resource

MAX_RESULTS = 200
"""How many resources a page has at most."""
TEXT = 255
"""Characters of a name and of an external id."""
BODY_BYTES = 256 << 10

ScimUser: Any = User[EnterpriseUser]
MODELS: Mapping[Kind, Any] = {Kind.USER: ScimUser, Kind.GROUP: Group}
RELATED = {Kind.USER: "groups", Kind.GROUP: "members"}
ENDPOINTS = {Kind.USER: "Users", Kind.GROUP: "Groups"}
# What Entra ID and Okta send: attributes of their own, a value that says what to remove, and a filter that describes
# what is to be added.
POLICY = ScimPolicy(
    unknown=ScimPolicy.Unknown.ignore,
    remove_value_as_filter=ScimPolicy.RemoveValue.apply,
    unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
)
PROVIDER = ScimProvider(
    models=[User, EnterpriseUser, Group],
    resource_types=[ResourceType.from_resource(ScimUser), ResourceType.from_resource(Group)],
    config=ServiceProviderConfig(
        patch=Patch(supported=True),
        bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
        filter=Filter(supported=True, max_results=MAX_RESULTS),
        change_password=ChangePassword(supported=False),
        sort=Sort(supported=True),
        etag=ETag(supported=True),
        authentication_schemes=[
            AuthenticationScheme(
                type=AuthenticationScheme.Type.oauthbearertoken,
                name="Bearer secret",
                description="authorization: Bearer, and the secret of RefreshScimSecret",
                primary=True,
            )
        ],
    ),
    policy=POLICY,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {Kind.USER: "userName", Kind.GROUP: "displayName"}
_BINDINGS = {kind: ScimPath.__class_getitem__(MODELS[kind])(name).resolve() for kind, name in _NAMES.items()}
# What is kept elsewhere, or nowhere: a password is nobody's business here.
_APART = dict.fromkeys(("id", "meta", "password", "groups", "members"))


def etag(of: Resource) -> str:
    """Weak: the groups of a user are shown with it, and are no part of it."""
    return f'W/"{of.version}"'


def location(of: Resource, base: str) -> str:
    return f"{base}/{ENDPOINTS[of.kind]}/{of.resource_id}"


def to_model(of: Resource, base: str = "") -> Any:
    """As it is answered, filtered and patched."""
    known: dict[str, Any] = {
        "id": of.resource_id,
        "meta": {
            "resourceType": of.kind.name.title(),
            "created": _time(of.create_time),
            "lastModified": _time(of.update_time),
            "location": location(of, base),
            "version": etag(of),
        },
    }
    if of.members:
        known[RELATED[of.kind]] = related(of, base)
    return MODELS[of.kind].model_validate({**of.document, **known}, scim_policy=POLICY)


def from_model(of: Resource, model: Any) -> Resource:
    """The resource with what a request made of its model. Raises InvalidValueException."""
    document = model.model_copy(update={name: None for name in _APART if name in type(model).model_fields}).model_dump()
    document.pop("id", None)
    check_text(json.dumps(document, ensure_ascii=False))
    name = _line(model.user_name if of.kind is Kind.USER else model.display_name, _NAMES[of.kind], required=True)
    external_id = _line(model.external_id, "externalId")
    if not unicodedata.is_normalized("NFC", external_id):
        raise InvalidValueException(detail="externalId is not in Unicode's normal form C")
    key = default_comparison_key(_BINDINGS[of.kind], name)
    active = of.active
    if of.kind is Kind.USER:
        # Whoever does not say so neither activates nor deactivates anybody.
        active = of.active if model.active is None else model.active
    made = replace(
        of,
        name=name,
        name_key=_line(key, _NAMES[of.kind]),
        external_id=external_id or None,
        active=active,
        document=document,
    )
    return replace(made, members=_members(model)) if of.kind is Kind.GROUP else made


def new(kind: Kind) -> Resource:
    """One of which nothing is known yet."""
    return Resource(kind, "", "", "", None, active=True, document={})


def _members(model: Any) -> tuple[Member, ...]:
    named: dict[str, Member] = {}
    for member in model.members or ():
        if not member.value:
            raise InvalidValueException(detail="a member needs a value: the id of a user or group")
        named[member.value] = Member(member.value, _line(member.display, "members.display") or None)
    return tuple(sorted(named.values(), key=lambda it: it.resource_id))


def related(of: Resource, base: str = "") -> list[dict[str, Any]]:
    """A group's members, or a user's groups, as they are shown."""
    return [_related(of.kind, member, base) for member in of.members]


def _related(kind: Kind, of: Member, base: str) -> dict[str, Any]:
    is_group = kind is Kind.USER or of.resource_id.startswith(f"{SCIM_GROUP}_")
    made = {"value": of.resource_id}
    if base:
        made["$ref"] = f"{base}/{ENDPOINTS[Kind.GROUP if is_group else Kind.USER]}/{of.resource_id}"
    if of.display:
        made["display"] = of.display
    made["type"] = "direct" if kind is Kind.USER else "Group" if is_group else "User"
    return made


def _time(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()


def _line(value: str | None, attribute: str, *, required: bool = False) -> str:
    value = value or ""
    if required and not value.strip():
        raise InvalidValueException(detail=f"{attribute} is required")
    if len(value) > TEXT:
        raise InvalidValueException(detail=f"{attribute} has at most {TEXT} characters")
    if CONTROL.search(value):
        raise InvalidValueException(detail=f"{attribute} holds a control character")
    return value


def check_text(text: str) -> None:
    """Raises InvalidValueException for what no database keeps."""
    if "\\u0000" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidValueException(detail="a value holds a character that is none")
