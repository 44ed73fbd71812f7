"""Trying policies: what would be decided on given traffic, and what each policy makes of it."""

from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import moment
from guardhouse.cli.traffic import Fields, Kind, traffic_of
from guardhouse.session.v1 import session_pb2 as pb

PROPOSAL: Final = ("proposed_policies", "deleted_policy_ids")

STEPS: Final = ("policy_id", "display_name", "matched", "decides", "decision", "reason", "failed", "missing")


def try_policies(
    ctx: Context,
    kind: Kind,
    fields: Fields = None,
    registration: Annotated[
        str | None,
        typer.Option(
            metavar="REGISTRATION",
            help="Whose traffic it is, with its session as it is.",
            autocompletion=ids("registrations", "ipv4"),
        ),
    ] = None,
    email: Annotated[str | None, typer.Option(help="Or of a made-up person: the address.")] = None,
    name: Annotated[str | None, typer.Option(help="The name.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group; may be repeated.")] = None,
    oidc_claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of their ID token; may be repeated.")
    ] = None,
    passed: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="A posture check that the device passed; may be repeated.")
    ] = None,
    failed: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="One that it failed; so, too.")] = None,
    session_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long ago they signed in. Default: just now.")
    ] = None,
    posture_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long ago the device said it. Default: that is missing.")
    ] = None,
    at: Annotated[
        Timestamp | None,
        typer.Option(parser=moment, metavar="TIME", help="When: a time, or 24h for a day ago. Default: now."),
    ] = None,
    proposal: Annotated[
        typer.FileText | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="JSON with proposed_policies and deleted_policy_ids, to be tried before they are saved; - is standard"
            " input. A proposed policy with a policy_id replaces that one.",
        ),
    ] = None,
) -> None:
    """Say what would be decided on traffic, and what each policy makes of it. Changes nothing."""
    it = ctx.obj
    about: dict[str, Any] = {"email": email, "display_name": name, "groups": group, "session_age": session_age}
    about |= {"passed_checks": passed, "failed_checks": failed, "posture_age": posture_age, "oidc_claims": oidc_claim}
    if registration is not None and any(about.values()):
        raise typer.BadParameter("it has a holder, a device and a session of its own", param_hint="--registration")
    request = _proposal(proposal)
    request.organization_id = it.organization_id
    test = request.tests.add(kind=output.value(pb.TrafficKind, kind), traffic=traffic_of(fields))
    if registration is not None:
        test.registration_id = registration
    else:
        test.test_subject.CopyFrom(pb.TestSubject(**about))
    if at is not None:
        request.time.CopyFrom(at)
    response = it.client.policies.TestPolicies(request)
    if it.as_json:
        output.print_json(response)
        return
    (result,) = response.results
    output.print_pairs(_decisions(result))
    print_steps(result.steps)


def print_steps(steps: Iterable[pb.PolicyStep]) -> None:
    """What policies make of traffic, under what stands above."""
    output.print_line("")
    output.print_rows([output.heading(column) for column in STEPS], [_row(step) for step in steps])


def _proposal(file: typer.FileText | None) -> pb.TestPoliciesRequest:
    request = pb.TestPoliciesRequest()
    if file is not None:
        try:
            Parse(file.read(), request)
        except ParseError as error:
            raise typer.BadParameter(str(error), param_hint="--with") from None
        others = [field.name for field, _ in request.ListFields() if field.name not in PROPOSAL]
        if others or not request.ByteSize():
            wrong = f"it has {', '.join(others)}" if others else "there is nothing in it"
            raise typer.BadParameter(f"{wrong}, and a proposal is {' and '.join(PROPOSAL)}", param_hint="--with")
    return request


def _decisions(result: pb.TrafficTestResult) -> list[tuple[str, str]]:
    shown = [("decision", _decision(result.answer))]
    if result.HasField("present_answer"):
        shown += [
            ("at present", _decision(result.present_answer)),
            ("newly refused", output.cell(result, "newly_refused")),
        ]
    return shown


def _decision(answer: pb.CheckAnswer) -> str:
    shown = f"{output.cell(answer, 'decision')} ({output.cell(answer, 'reason')})"
    if not answer.HasField("session_expire_time"):
        return shown
    expired = answer.reason == pb.DECISION_REASON_SESSION_EXPIRED
    return f"{shown}, {'expired' if expired else 'expires'} at {output.cell(answer, 'session_expire_time')}"


def _row(step: pb.PolicyStep) -> list[str]:
    cells = {column: output.cell(step, column) for column in STEPS}
    if not step.policy_id:
        cells["policy_id"] = "proposed"
    if not step.decides:
        cells["decision"] = cells["reason"] = output.NOTHING
    return list(cells.values())
