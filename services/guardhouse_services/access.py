"""Who is calling, and whether the method's rule in the contract admits them."""

from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from guardhouse.common.v1 import access_pb2
from guardhouse.errors import AccessDenied, CredentialsInvalid, CredentialsMissing

PUBLIC = "public"
SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling. `kind` is anonymous, key, device or service."""

    kind: str
    id: str = ""
    organization_id: str = ""
    """Of a key or device. A key with none is of the whole installation."""
    role: int = 0
    """A key's guardhouse.common.v1.Role."""
    expire_time: int = 0
    """When a key expires; 0 is never."""
    only: str = ""
    """The one method for which a device is still recognised once its registration is gone, and a key once its
    organization is."""

    @property
    def name(self) -> str:
        """For logs and records: the kind and the id."""
        return f"{self.kind}:{self.id}" if self.id else self.kind


ANONYMOUS = Caller("anonymous")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Which request it is. `fingerprint` is SHA-256 of its body without the request_id."""

    organization_id: str
    caller: str
    method: str
    request_id: str
    fingerprint: bytes


class Call(NamedTuple):
    """What a method is given beside its request. A tuple, for it is made for every call."""

    caller: Caller
    method: str
    """The full name with slashes, as in /guardhouse.identity.v1.UserService/GetUser."""
    trace_id: str
    """The request id that crosses services, for logs."""
    key: RequestKey
    """Which request it is, for one effect of repeated ones."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The access rule of a method, as the contract has it."""

    roles: frozenset[int]
    installation: bool
    device: bool
    anonymous: bool
    services: frozenset[str]
    is_mutation: bool
    deleted_organization: bool

    @classmethod
    def of(cls, method: MethodDescriptor) -> "Rule":
        """Raises LookupError for a method without a rule: a server that has one does not start."""
        options = method.GetOptions()
        rule = options.Extensions[access_pb2.access]
        if not (rule.roles or rule.device or rule.anonymous or rule.services):
            raise LookupError(f"{method.full_name} has no access rule")
        reads = MethodOptions.NO_SIDE_EFFECTS
        return cls(
            roles=frozenset(rule.roles),
            installation=rule.installation,
            device=rule.device,
            anonymous=rule.anonymous,
            services=frozenset(rule.services),
            is_mutation=options.idempotency_level != reads and not method.server_streaming,
            deleted_organization=rule.deleted_organization,
        )

    def admits(self, caller: Caller) -> bool:
        """Whether the rule admits such a caller, whatever the request says."""
        match caller.kind:
            case "service":
                return caller.id in self.services
            case "key":
                return caller.role in self.roles and not (self.installation and caller.organization_id)
            case "device":
                return self.device
        return self.anonymous

    def check(self, caller: Caller, method: str) -> None:
        """Raises CredentialsMissing, CredentialsInvalid and AccessDenied."""
        if caller.only and caller.only != method:
            raise CredentialsInvalid("what the key or registration token belonged to is gone")
        if self.admits(caller):
            return
        if caller.kind == "anonymous":
            raise CredentialsMissing("this method needs an API key: send `authorization: Bearer <key>`")
        raise AccessDenied(f"{caller.name} may not call this method", method=method)


def check_scope(caller: Caller, method: str, organization_id: str, registration_id: str) -> None:
    """Raises AccessDenied for an id of another organization, whether it exists or not, or of another device."""
    if caller.kind in ("key", "device") and caller.organization_id not in ("", organization_id):
        raise AccessDenied(f"{caller.name} belongs to another organization than the request names", method=method)
    if caller.kind == "device" and caller.id != registration_id:
        raise AccessDenied("a device may ask about its own registration only", method=method)
