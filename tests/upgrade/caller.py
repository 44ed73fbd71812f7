"""A client of whichever release is on the path, as a process: each line of JSON that it reads is a call.

`python caller.py PROFILE`. A call has a `method` such as "users.ListUsers", a `request` and the `key` to call with, or
none for the profile's; the answer is the response, or `{"error": REASON}`. The method `prepare` makes the request that
enrolls a machine, with a fresh key, and `fields` says the names of all fields that the release knows.
"""

import importlib
import json
import os
import sys
import uuid
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

import guardhouse
from guardhouse import enrollment, errors
from guardhouse.client import Client
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.profile import SERVICES
from guardhouse.registry.v1 import registry_pb2 as registry

MODULES = [importlib.import_module(f"guardhouse.{service}.v1.{service}_pb2") for service in SERVICES]


def call(client: Client, method: str, request: dict[str, Any]) -> Message:
    if method == "prepare":
        return prepare(client, **request)
    stub, _, name = method.partition(".")
    message = next(getattr(module, f"{name}Request") for module in MODULES if hasattr(module, f"{name}Request"))
    answer: Message = getattr(getattr(client, stub), name)(ParseDict(request, message()))
    return answer


def prepare(client: Client, organization_id: str, credential: dict[str, Any], machine: str) -> registry.RegisterRequest:
    info = client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    device = registry.DeviceClaims(hardware_id=machine, platform=registry.PLATFORM_LINUX)
    known = ParseDict(credential, Credential())
    return enrollment.make_request(info, organization_id, known, device, os.urandom(32), uuid.uuid4().hex)


def fields() -> list[str]:
    messages = [each for module in MODULES for each in module.DESCRIPTOR.message_types_by_name.values()]
    return sorted({field.name for message in messages for field in message.fields})


def main() -> None:
    clients: dict[str, Client] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = asked["key"]
        if key not in clients:
            clients[key] = guardhouse.connect(sys.argv[1], key=key or None)
        try:
            if asked["method"] == "fields":
                answer: dict[str, Any] = {"names": fields()}
            else:
                response = call(clients[key], asked["method"], asked["request"])
                answer = MessageToDict(response, preserving_proto_field_name=True)
        except errors.GuardhouseError as error:
            answer = {"error": error.reason}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
