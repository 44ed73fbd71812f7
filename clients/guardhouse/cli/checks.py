"""Decisions: one, a batch, or a stream of them."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import grpc
import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import Parse, ParseError

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import BATCH_SIZE, Context, Invocation, batches
from guardhouse.cli.options import ApplicationId, ClientCountry, ClientIp, PolicyId, RegistrationId
from guardhouse.cli.traffic import Fields, Kind, Subject, traffic_of
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.status import from_rpc_error

app = typer.Typer(no_args_is_help=True)

TRAFFIC_LINES = (
    'A line for each check, as JSON: {"registration_id": "reg_...", "kind": "TRAFFIC_KIND_CONNECTION", "traffic":'
    ' {"fields": {"net.dst.ip": "10.0.0.1"}}}, or with "address" for whose it is.'
)
LINES = "A line for each check: the registration's id and the policy's, with a space or a comma between."
SHOWN = ("decision", "reason", "session_expire_time", "valid_for")

B = TypeVar("B", pb.BatchCheckSessionsResponse, pb.BatchCheckTrafficResponse)

ReadMask = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD", help="A field of the answer that is wanted, such as decision; may be repeated. Default: all."
    ),
]


class Item(NamedTuple):
    """A check, as a line asks for it."""

    registration_id: str
    policy_id: str


def check(ctx: Context, registration_id: RegistrationId, policy_id: PolicyId) -> None:
    """Decide whether a registration may use what a policy covers."""
    it = ctx.obj
    request = pb.CheckSessionRequest(
        organization_id=it.organization_id, registration_id=registration_id, policy_id=policy_id
    )
    response = it.client.checks.CheckSession(request)
    it.show(response, fresh_as_of=output.cell(response, "fresh_as_of"), degraded=output.cell(response, "degraded"))


@app.command("batch", help=f"Decide the checks of a file, or with - of standard input. {LINES}")
def check_batch(
    ctx: Context,
    file: Annotated[typer.FileBinaryRead, typer.Argument(metavar="FILE")],
    read_mask: ReadMask = None,
) -> None:
    it = ctx.obj
    items = [item for number, line in enumerate(file, 1) for item in items_of(line, number)]
    if not items:
        raise typer.BadParameter(f"there is no check in it. {LINES}", param_hint="FILE")
    request = pb.BatchCheckSessionsRequest(
        organization_id=it.organization_id,
        items=[pb.CheckSessionItem(**item._asdict()) for item in items],
        read_mask=FieldMask(paths=read_mask) if read_mask else None,
    )
    whole = _together(batches(it.client.checks.BatchCheckSessions, request, "items", "decided"))
    _show_batch(it, whole, Item._fields, items, SHOWN, read_mask)


@app.command("traffic")
def check_traffic(
    ctx: Context,
    subject: Subject,
    kind: Kind,
    fields: Fields = None,
) -> None:
    """Decide on traffic, by the first policy that covers it."""
    it = ctx.obj
    request = pb.CheckTrafficRequest(
        organization_id=it.organization_id, kind=output.value(pb.TrafficKind, kind), traffic=traffic_of(fields)
    )
    setattr(request, "registration_id" if subject.startswith("reg_") else "address", subject)
    response = it.client.checks.CheckTraffic(request)
    it.show(response, fresh_as_of=output.cell(response, "fresh_as_of"), degraded=output.cell(response, "degraded"))


@app.command("application")
def check_application(
    ctx: Context,
    application_id: ApplicationId,
    device: Annotated[
        str,
        typer.Option(
            metavar="REGISTRATION|ADDRESS",
            help="The device that is used, by the virtual address if it is none of the other. Default: none.",
            autocompletion=ids("registrations", "ipv4"),
        ),
    ] = "",
    session_token: Annotated[
        str,
        typer.Option(envvar="GUARDHOUSE_SESSION_TOKEN", show_envvar=True, help="Of `applications log-in`."),
    ] = "",
    binding: Annotated[str, typer.Option(help="Of the same, where it gave one.")] = "",
    ip: ClientIp = "",
    country: ClientCountry = "",
) -> None:
    """Decide whether somebody may use an application, and show the token for it."""
    it = ctx.obj
    request = pb.CheckApplicationRequest(
        organization_id=it.organization_id,
        application_id=application_id,
        session_token=session_token,
        binding=binding,
        client=pb.ClientFacts(ip=ip, country=country),
    )
    if device:
        setattr(request, "registration_id" if device.startswith("reg_") else "address", device)
    response = it.client.checks.CheckApplication(request)
    shown = ["fresh_as_of"]
    if response.application_token:
        shown += ["application_token", "application_token_expire_time"]
    if response.sign_ins:
        shown.append("sign_ins")
    it.show(response, **{field: output.cell(response, field) for field in shown})


@app.command("traffic-batch", help=f"Decide the checks of a file, or with - of standard input. {TRAFFIC_LINES}")
def check_traffic_batch(
    ctx: Context,
    file: Annotated[typer.FileText, typer.Argument(metavar="FILE")],
    read_mask: ReadMask = None,
) -> None:
    it = ctx.obj
    items = [_traffic_item(line, number) for number, line in enumerate(file, 1) if line.strip()]
    if not items:
        raise typer.BadParameter(f"there is no check in it. {TRAFFIC_LINES}", param_hint="FILE")
    request = pb.BatchCheckTrafficRequest(
        organization_id=it.organization_id, items=items, read_mask=FieldMask(paths=read_mask) if read_mask else None
    )
    whole = _together(batches(it.client.checks.BatchCheckTraffic, request, "items", "decided"))
    asked = [(output.cell(item, "subject"), output.cell(item, "kind")) for item in items]
    _show_batch(it, whole, ("subject", "kind"), asked, (*SHOWN[:2], "policy_id", *SHOWN[2:]), read_mask)


def _traffic_item(line: str, number: int) -> pb.CheckTrafficItem:
    try:
        return Parse(line, pb.CheckTrafficItem())
    except ParseError as error:
        raise typer.BadParameter(f"line {number}: {error}. {TRAFFIC_LINES}", param_hint="FILE") from None


def _together(responses: Iterator[B]) -> B:
    """The answers of batches as one, as fresh as the oldest of them."""
    found = list(responses)
    oldest = min(found, key=lambda response: response.fresh_as_of.ToMicroseconds())
    return type(oldest)(
        answers=[answer for response in found for answer in response.answers],
        fresh_as_of=oldest.fresh_as_of if oldest.HasField("fresh_as_of") else None,
        degraded=any(response.degraded for response in found),
    )


def _show_batch(
    it: Invocation,
    whole: pb.BatchCheckSessionsResponse | pb.BatchCheckTrafficResponse,
    asked: Sequence[str],
    items: Sequence[Sequence[str]],
    columns: Sequence[str],
    read_mask: Sequence[str] | None,
) -> None:
    """Prints what was asked, under its names, and those columns of the answers that are wanted."""
    if it.as_json:
        output.print_json(whole)
        return
    shown = [name for name in columns if not read_mask or name in read_mask]
    rows = [
        [*item, *(output.cell(answer, name) for name in shown)]
        for item, answer in zip(items, whole.answers, strict=True)
    ]
    output.print_rows([output.heading(name) for name in (*asked, *shown)], rows)
    degraded = ", degraded" if whole.degraded else ""
    output.note(f"Fresh as of {output.cell(whole, 'fresh_as_of')}{degraded}.")


@app.command("stream", help=f"Decide the checks that come on standard input, each as it comes. {LINES}")
def check_stream(ctx: Context, read_mask: ReadMask = None) -> None:
    it = ctx.obj
    asked: deque[list[Item]] = deque()
    mask = FieldMask(paths=read_mask) if read_mask else None
    organization_id = it.organization_id
    wrong: list[typer.BadParameter] = []

    def requests() -> Iterator[pb.StreamCheckSessionsRequest]:
        try:
            for nonce, items in enumerate(waiting_items(sys.stdin)):
                asked.append(items)
                yield pb.StreamCheckSessionsRequest(
                    organization_id=organization_id,
                    items=[pb.CheckSessionItem(**item._asdict()) for item in items],
                    read_mask=mask,
                    nonce=nonce,
                )
        except typer.BadParameter as error:  # This runs in a thread of gRPC's; what came before is answered first.
            wrong.append(error)

    stream: Any = it.client.checks.StreamCheckSessions(requests())
    try:
        for response in stream:
            for item, answer in zip(asked.popleft(), response.answers, strict=True):
                answer.registration_id, answer.policy_id = item
                if it.as_json:
                    output.print_json_line(output.as_dict(answer))
                else:
                    shown = [name for name in SHOWN[:2] if not read_mask or name in read_mask]
                    output.print_line(" ".join((*item, *(output.cell(answer, name) for name in shown))))
            sys.stdout.flush()
    except grpc.RpcError as failure:
        raise from_rpc_error(failure, "session") from None
    finally:
        stream.cancel()
    for error in wrong:
        raise error


def waiting_items(file: Any) -> Iterator[list[Item]]:
    """The checks of a file's lines, as many at a time as have come, and as one call may have."""
    rest, number = b"", 0
    while block := file.buffer.read1():
        *lines, rest = (rest + block).split(b"\n")
        found: list[Item] = []
        try:
            for line in lines:
                number += 1
                found += items_of(line, number)
        finally:  # Also before a line that is none.
            yield from parts(found)
    yield from parts(items_of(rest, number + 1))


def parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), BATCH_SIZE):
        yield list(items[start : start + BATCH_SIZE])


def items_of(line: bytes, number: int) -> list[Item]:
    """The check that a line asks for; none for an empty line."""
    words = line.decode(errors="replace").replace(",", " ").split()
    if len(words) not in (0, 2):
        raise typer.BadParameter(f"line {number} is {' '.join(words)!r}. {LINES}")
    return [Item(*words)] if words else []
