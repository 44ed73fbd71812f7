"""Whether the services answer."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guardhouse.cli import output
from guardhouse.cli.invocation import Context
from guardhouse.client import Client
from guardhouse.errors import GuardhouseError
from guardhouse.profile import SERVICES, ProfileInvalid

TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said of itself (gRPC health checking protocol)."""

    service: str
    address: str
    status: str
    latency_ms: float | None = None
    detail: str = ""


def status(ctx: Context) -> None:
    """Say which services answer, how they are and how fast; exits with 1 unless all are serving."""
    client = ctx.obj.client
    with output.waiting("Asking ..."), ThreadPoolExecutor(len(SERVICES)) as pool:
        answers = list(pool.map(lambda service: _ask(client, service), SERVICES))
    if ctx.obj.as_json:
        print(json.dumps({"services": [asdict(answer) for answer in answers]}, indent=2))
    else:
        headings = ("service", "address", "status", "latency")
        output.print_rows(headings, [(a.service, a.address, a.status, _milliseconds(a)) for a in answers])
    for answer in answers:
        if answer.detail:
            output.error(answer.detail)
    if any(answer.detail for answer in answers):
        output.note("`make run` starts all four; the profile says where they are.")
    if any(answer.status != "serving" for answer in answers):
        raise typer.Exit(1)


def _ask(client: Client, service: str) -> Answer:
    address: str = getattr(client.profile, service)
    try:
        check = health_pb2_grpc.HealthStub(client.channel(service)).Check
        check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        # The first call made the connection; this one tells how fast the service is.
        started = time.perf_counter()
        health = check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        elapsed = (time.perf_counter() - started) * 1000
    except (GuardhouseError, ProfileInvalid) as error:
        return Answer(service, address or output.NOTHING, "unreachable", detail=str(error))
    kinds = health_pb2.HealthCheckResponse.ServingStatus
    return Answer(service, address, kinds.Name(health.status).lower().replace("_", "-"), round(elapsed, 1))


def _milliseconds(answer: Answer) -> str:
    return output.NOTHING if answer.latency_ms is None else f"{answer.latency_ms} ms"
