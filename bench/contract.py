"""A contract with one method that does nothing, for measuring what everything around a method costs."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message_factory import GetMessageClass

from guardhouse.common.v1 import access_pb2
from guardhouse_services.access import Call

PACKAGE = "guardhouse.bench.v1"
PATH = f"/{PACKAGE}.EmptyService/Empty"


@cache
def contract() -> FileDescriptor:
    """The descriptor. The method has a rule as CheckSession has, and its request names an organization."""
    file = descriptor_pb2.FileDescriptorProto(
        name="guardhouse/bench/v1/bench.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[access_pb2.DESCRIPTOR.name],
    )
    request = file.message_type.add(name="EmptyRequest")
    text = descriptor_pb2.FieldDescriptorProto
    request.field.add(name="organization_id", number=1, type=text.TYPE_STRING, label=text.LABEL_OPTIONAL)
    file.message_type.add(name="EmptyResponse")
    method = file.service.add(name="EmptyService").method.add(
        name="Empty", input_type=f".{PACKAGE}.EmptyRequest", output_type=f".{PACKAGE}.EmptyResponse"
    )
    method.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    rule = method.options.Extensions[access_pb2.access]
    rule.roles.extend([access_pb2.ROLE_GATEWAY, access_pb2.ROLE_ADMIN])
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


def messages() -> tuple[Any, Any]:
    """The classes of its request and response."""
    types = contract().message_types_by_name
    return GetMessageClass(types["EmptyRequest"]), GetMessageClass(types["EmptyResponse"])


class EmptyServicer:
    """Does nothing."""

    def __init__(self) -> None:
        _, self._response = messages()

    async def Empty(self, _request: Any, _call: Call) -> Any:
        return self._response()
