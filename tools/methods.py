"""The tables of docs/methods.md: every method of the contract, what it does, who may call it, and what a retry does."""

import re
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions

from guardhouse.common.v1 import access_pb2

SERVICES = ("identity", "registry", "ipam", "session")
# Where a descriptor's comments lie: field 6 of a file are its services, and field 2 of a service its methods.
SERVICE, METHOD = 6, 2
HEADER = """\
# Every method

Written by `make gen` from the [contract](../protos/guardhouse), whose comments say more: the errors of each, and what
every field means. A server that lacks one of these does not start. What becomes of a call of each by every kind of
caller is in [tests/system/access_matrix.txt](../tests/system/access_matrix.txt).

| | |
|---|---|
| ADMIN, AUDITOR, GATEWAY | API keys with this role |
| device | a device with the token of its registration, for itself only |
| identity, registry, ipam, session | services with their certificates, on a listener of their own |
| reads | changes nothing |
| one effect | calls with the same `request_id` and body have the effect of one |
| same outcome | a repetition leaves things as they are |
"""


def document(files: FileDescriptorSet) -> str:
    """The whole page. The files come with their source info."""
    parts = [HEADER]
    for service in SERVICES:
        for file in files.file:
            if file.package == f"guardhouse.{service}.v1" and file.service:
                parts += _tables(service, file, _requests(files))
    return "\n".join(parts)


def _tables(name: str, file: FileDescriptorProto, with_request_id: set[str]) -> Iterator[str]:
    comments = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
    yield f"## {name}\n"
    for number, service in enumerate(file.service):
        yield f"### {service.name}\n"
        yield "| method | what it does | callers | repeated |\n|---|---|---|---|"
        for at, method in enumerate(service.method):
            what = _first_sentence(comments[SERVICE, number, METHOD, at])
            repeated = _repeated(method, method.input_type in with_request_id)
            yield f"| `{method.name}` | {what} | {_callers(method)} | {repeated} |"
        yield ""


def _requests(files: FileDescriptorSet) -> set[str]:
    """The messages that have a request_id."""
    return {
        f".{file.package}.{message.name}"
        for file in files.file
        for message in file.message_type
        if any(field.name == "request_id" for field in message.field)
    }


def _first_sentence(comment: str) -> str:
    text = " ".join(comment.split()).replace("|", "\\|")
    return re.split(r"(?<=[.:;])(?<!e\.g\.) (?=[A-Z])|: |; ", text)[0].rstrip(".:;")


def _callers(method: MethodDescriptorProto) -> str:
    rule = method.options.Extensions[access_pb2.access]
    of = " of the installation" if rule.installation else ""
    found = [access_pb2.Role.Name(role).removeprefix("ROLE_") + of for role in rule.roles]
    found += ["device"] if rule.device else []
    found += rule.services
    found += ["anybody"] if rule.anonymous else []
    return _joined(found)


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words) or "-"


def _repeated(method: MethodDescriptorProto, has_request_id: bool) -> str:
    if method.client_streaming or method.server_streaming:
        return "stream"
    match method.options.idempotency_level:
        case MethodOptions.NO_SIDE_EFFECTS:
            return "reads"
        case MethodOptions.IDEMPOTENT:
            return "one effect" if has_request_id else "same outcome"
    return "-"
