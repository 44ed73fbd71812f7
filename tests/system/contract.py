"""What the contract says: every method of the descriptors, and what the comments of the protos promise of each."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.envoy.v1 import authorization_pb2
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2
from guardhouse_services.access import Rule

PROTOS = Path(__file__).parents[2] / "protos"
CONTRACTS = (identity_pb2, registry_pb2, ipam_pb2, session_pb2)
REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()) - {"UNSPECIFIED"}  # noqa: SIM118


@dataclass(frozen=True)
class Method:
    """A method with its documentation."""

    descriptor: MethodDescriptor

    @property
    def service(self) -> str:
        """identity, registry, ipam or session."""
        package = str(self.descriptor.containing_service.file.package)
        return "session" if package.startswith("envoy.") else package.split(".")[1]

    @property
    def name(self) -> str:
        """As in registry.EnrollmentService.Register."""
        return f"{self.service}.{self.descriptor.containing_service.name}.{self.descriptor.name}"

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def request(self) -> type[Message]:
        return GetMessageClass(self.descriptor.input_type)

    @property
    def is_stream(self) -> bool:
        return bool(self.descriptor.client_streaming)

    @cached_property
    def rule(self) -> Rule:
        return Rule.of(self.descriptor)

    def takes(self, field: str) -> bool:
        return field in self.descriptor.input_type.fields_by_name

    @cached_property
    def reasons(self) -> frozenset[str]:
        """Those that its comment and its package's name."""
        package = comments(self.service)["package"]
        found = re.search(
            r"Any method may answer (.*?); one that takes a request_id also (.*?), and one that takes at_least (.*?)\.",
            package,
        )
        assert found, f"the comment of {self.service} does not say what any method may answer"
        always, of_request_id, of_at_least = map(_named, found.groups())
        own = always | self._own_reasons()
        if self.takes("request_id"):
            own |= of_request_id
        if self.takes("at_least"):
            own |= of_at_least
        if _has_etag(self.descriptor.input_type) and "ETAG_MISMATCH" in package:
            own |= {"ETAG_MISMATCH"}
        return own

    def _own_reasons(self) -> frozenset[str]:
        comment = comments(self.service)[f"{self.descriptor.containing_service.name}.{self.descriptor.name}"]
        # What becomes of an item of a batch is in the answer.
        found = _named(comment.partition("Errors per item")[0])
        for sibling in self.descriptor.containing_service.methods:
            if re.search(rf"\b[Aa]s {sibling.name}\b", comment):
                found |= Method(sibling)._own_reasons()
        return found


def _named(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\b[A-Z_]{5,}\b", text)) & REASONS


def _has_etag(message: Descriptor) -> bool:
    nested = (field.message_type for field in message.fields if field.message_type is not None)
    return "etag" in message.fields_by_name or any("etag" in each.fields_by_name for each in nested)


METHODS: Mapping[str, Method] = {
    method.name: method
    for contract in CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in map(Method, service.methods)
}

ENVOY = Method(authorization_pb2.DESCRIPTOR.services_by_name["Authorization"].methods_by_name["Check"])
"""The one method that is served by a contract of others."""

_comments: dict[str, dict[str, str]] = {}


def comments(package: str) -> Mapping[str, str]:
    """Every comment of a package, by name: Message.field, Enum.VALUE, Service.Method and, for its own, `package`."""
    if package not in _comments:
        found: dict[str, str] = {}
        for path in sorted((PROTOS / "guardhouse" / package / "v1").glob("*.proto")):
            found |= dict(_parse(path.read_text()))
        _comments[package] = found
    return _comments[package]


_BLOCK = re.compile(r"(?:message|service|enum|rpc) (\w+).*?({)?(?:})?$")
_FIELD = re.compile(r"(?:repeated |optional )?[\w.]+(?:<.*>)? (\w+) = \d+")
_VALUE = re.compile(r"(\w+) = \d+;")


def _parse(text: str) -> Iterator[tuple[str, str]]:
    """The comments above what is named. The layout is that of `buf format`: a line for each name and each brace."""
    comment: list[str] = []
    scope: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        said = " ".join(comment)
        comment.clear()
        names = [name for name in scope if name]
        if line.startswith("package "):
            yield "package", said
        elif named := _BLOCK.match(line):
            yield ".".join([*names, named[1]]), said
            if line.endswith("{"):
                scope.append(named[1])
            continue
        elif named := _FIELD.match(line) or _VALUE.match(line):
            yield ".".join([*names, named[1]]), said
        if line.endswith("{"):
            scope.append("")
        elif line.startswith("}"):
            scope.pop()
