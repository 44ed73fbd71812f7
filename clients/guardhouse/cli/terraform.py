"""Policies and lists from Terraform's files, and into one."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import DryRun
from guardhouse.errors import AlreadyExists, GuardhouseError, InvalidField, NotFound
from guardhouse.session.v1 import session_pb2 as pb

if TYPE_CHECKING:
    from guardhouse.terraform import Note

M = TypeVar("M", pb.List, pb.Policy)

LIST_FIELDS: Final = ("description", "values")
POLICY_FIELDS: Final = (
    *("description", "enabled", "filter", "action", "check_session", "traffic", "identity", "device_posture"),
    *("schedule", "expire_time", "precedence"),
)
"""What a file says of them, beside the name."""

CONFLICTS: Final = ("of another type", "with other values", "more than once")
"""Outcomes for which nothing at all is done."""

File = Annotated[
    typer.FileBinaryRead,
    typer.Argument(
        metavar="FILE",
        help="A .tf file, or what `terraform show -json` prints; - is standard input.",
        show_default=False,
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Change what has the same name to what the file says.")]
Output = Annotated[
    Path | None, typer.Option("--output", dir_okay=False, help="The file to write. Default: standard output.")
]


@dataclass
class Step(Generic[M]):
    """A resource, what is there of its name, and what becomes of it."""

    address: str
    wanted: M
    there: M | None
    outcome: str


def import_policies(ctx: Context, file: File, replace: Replace = False, dry_run: DryRun = False) -> None:
    """Create the policies and lists of a Terraform file, and say what of it cannot be mapped.

    What is there already, by its name, stays as it is without --replace.
    """
    from guardhouse import terraform

    it = ctx.obj
    try:
        with output.waiting("Reading the file ..."):
            resources = terraform.parse(file.read(terraform.MAX_SIZE + 1))
    except terraform.TerraformInvalid as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    lists, policies = _lists(it), _policies(it)
    found = terraform.read(resources, lists)
    notes = list(found.notes)
    list_steps = [_list_step(it, address, wanted, lists.get(wanted.name), replace) for address, wanted in found.lists]
    policy_steps = [
        _policy_step(address, wanted, [each for each in policies if each.display_name == wanted.display_name], replace)
        for address, wanted in found.policies
    ]
    steps: Sequence[Step[Any]] = [*list_steps, *policy_steps]
    _refuse_conflicts(steps)
    if not dry_run:
        notes += _carry_out(it, _in_order(it, list_steps, policy_steps))
    _show(it, steps, notes)
    if dry_run and not it.as_json:
        output.note("Nothing was changed.")
    if any(note.left_out for note in notes):
        raise typer.Exit(1)


def export_policies(ctx: Context, to: Output = None) -> None:
    """Write every policy and list as Terraform's resources."""
    from guardhouse import terraform

    it = ctx.obj
    lists = [_whole(it, each) for each in _lists(it).values()]
    policies = sorted(_policies(it), key=lambda policy: (policy.filter, policy.precedence))
    exported = terraform.write(lists, policies)
    if to is not None:
        to.write_text(exported.text, encoding="utf-8")
    if it.as_json:
        output.print_json({"terraform": exported.text, "notes": [asdict(note) for note in exported.notes]})
        return
    for note in exported.notes:
        output.note(": ".join(filter(None, (note.resource, f"{note.attribute} {note.message}".strip()))))
    if to is None:
        print(exported.text, end="")
    else:
        output.note(f"{output.count(len(policies), 'policy')} and {output.count(len(lists), 'list')} are in {to}.")


def _lists(it: Invocation) -> Mapping[str, pb.List]:
    """By name, without their values."""
    request = pb.ListListsRequest(organization_id=it.organization_id)
    listed: Any = it.listed(it.client.lists.ListLists, request)
    return {each.name: each for each in listed.lists}


def _whole(it: Invocation, of: pb.List) -> pb.List:
    return it.client.lists.GetList(pb.GetListRequest(organization_id=it.organization_id, list_id=of.list_id)).list


def _policy(it: Invocation, policy_id: str) -> pb.Policy:
    request = pb.GetPolicyRequest(organization_id=it.organization_id, policy_id=policy_id)
    return it.client.policies.GetPolicy(request).policy


def _policies(it: Invocation) -> Sequence[pb.Policy]:
    request = pb.ListPoliciesRequest(organization_id=it.organization_id)
    listed: Any = it.listed(it.client.policies.ListPolicies, request)
    found: Sequence[pb.Policy] = listed.policies
    return found


def _list_step(it: Invocation, address: str, wanted: pb.List, there: pb.List | None, replace: bool) -> Step[pb.List]:
    whole = _whole(it, there) if there is not None else None
    if whole is None:
        outcome = "create"
    elif whole.type != wanted.type:
        outcome = CONFLICTS[0]
    elif _said(whole) == _said(wanted):
        outcome = "unchanged"
    else:
        outcome = "replace" if replace else CONFLICTS[1]
    return Step(address, wanted, whole, outcome)


def _policy_step(address: str, wanted: pb.Policy, there: Sequence[pb.Policy], replace: bool) -> Step[pb.Policy]:
    if not there:
        return Step(address, wanted, None, "create")
    if len(there) > 1:
        outcome = CONFLICTS[2] if replace else "skip"
    elif _said(there[0], _paths(wanted)) == _said(wanted):
        outcome = "unchanged"
    else:
        outcome = "replace" if replace else "skip"
    return Step(address, wanted, there[0], outcome)


def _said(of: M, paths: Sequence[str] | None = None) -> M:
    """Only what a file says of it, beside the name."""
    made = type(of)()
    FieldMask(paths=_paths(of) if paths is None else paths).MergeMessage(of, made)
    return made


def _paths(wanted: pb.List | pb.Policy) -> Sequence[str]:
    """A file that says no precedence leaves it as it is."""
    if isinstance(wanted, pb.List):
        return LIST_FIELDS
    return POLICY_FIELDS if wanted.HasField("precedence") else POLICY_FIELDS[:-1]


def _refuse_conflicts(steps: Sequence[Step[Any]]) -> None:
    """Ends before anything is done where the file and what is there contradict each other."""
    conflicts = [step for step in steps if step.outcome in CONFLICTS]
    for step in conflicts:
        advice = "; --replace gives it those of the file" if step.outcome == CONFLICTS[1] else ""
        output.error(f"{step.address}: there is already a {_kind(step)} {_name(step)!r} {step.outcome}{advice}")
    if conflicts:
        output.note("Nothing was changed.")
        raise typer.Exit(1)


def _carry_out(it: Invocation, steps: Sequence[Step[Any]]) -> Sequence["Note"]:
    """Makes the calls. What the server said of each resource."""
    from guardhouse.terraform import Note

    notes: list[Note] = []
    with output.progress() as bars:
        task = bars.add_task("Importing", total=len(steps))
        for done, step in enumerate(steps):
            try:
                response = _create(it, step) if step.there is None else _replace(it, step, step.there)
            except (InvalidField, AlreadyExists) as error:  # The others may well be right.
                notes.append(Note(step.address, error.field.partition(".")[2], error.message, left_out=True))
                step.outcome = "refused"
            except GuardhouseError:
                output.error(
                    f"{done} of {len(steps)} were done, and {step.address} was not, because of what follows; the same"
                    " command goes on with the rest"
                )
                raise
            else:
                notes += [Note(step.address, each.field, each.message) for each in getattr(response, "warnings", ())]
                step.outcome += "d"
            bars.update(task, completed=done + 1)
    return notes


def _in_order(it: Invocation, lists: Sequence[Step[pb.List]], policies: Sequence[Step[pb.Policy]]) -> list[Step[Any]]:
    """What is to be done: lists first, because policies use them, and of the policies changes before new ones.

    Each change comes when the precedence that it wants is free. At first they are put into the order of the file among
    each other. From then on none has to pass another: those that go up move from the highest on, those that go down
    from the lowest on.
    """
    changed = [step for step in policies if step.outcome == "replace"]
    moved = [step for step in changed if step.wanted.HasField("precedence")]
    moved.sort(key=lambda step: step.wanted.precedence)
    held = [_there(step) for step in moved]
    if [policy.precedence for policy in held] != sorted(policy.precedence for policy in held):
        request = pb.ReorderPoliciesRequest(
            organization_id=it.organization_id, policy_ids=[policy.policy_id for policy in held]
        )
        for step, there in zip(moved, it.client.policies.ReorderPolicies(request).policies, strict=True):
            step.there = there
    up = [step for step in moved if step.wanted.precedence > _there(step).precedence]
    down = [step for step in moved if step.wanted.precedence <= _there(step).precedence]
    rest = [step for step in changed if not step.wanted.HasField("precedence")]
    new = [step for step in policies if step.outcome == "create"]
    return [*(step for step in lists if step.outcome in ("create", "replace")), *reversed(up), *down, *rest, *new]


def _there(step: Step[pb.Policy]) -> pb.Policy:
    assert step.there is not None  # noqa: S101  # What is to be replaced is there.
    return step.there


def _create(it: Invocation, step: Step[Any]) -> Message:
    """Creates it, once however often the command is repeated within a day.

    A repeated request is answered as the first one was, even when somebody has deleted since what that one made. Then
    it is made anew.
    """
    organization_id, wanted = it.organization_id, step.wanted
    request: Any
    create: Any
    if isinstance(wanted, pb.List):
        request = pb.CreateListRequest(organization_id=organization_id, list=wanted)
        create = it.client.lists.CreateList
    else:
        request = pb.CreatePolicyRequest(organization_id=organization_id, policy=wanted)
        create = it.client.policies.CreatePolicy
    request.request_id = _request_id(step, request)
    made: Message = create(request)
    try:
        if isinstance(made, pb.CreateListResponse):
            _whole(it, made.list)
        elif isinstance(made, pb.CreatePolicyResponse):
            _policy(it, made.policy.policy_id)
    except NotFound:
        request.request_id = ""
        made = create(request)
    return made


def _replace(it: Invocation, step: Step[Any], there: Any) -> Message:
    """Changes it to what the file says, as long as nobody has changed it since it was read."""
    mask = FieldMask(paths=_paths(step.wanted))
    request: Any
    if isinstance(there, pb.List):
        request = pb.UpdateListRequest(organization_id=it.organization_id, list=step.wanted, update_mask=mask)
        request.list.list_id, request.list.etag = there.list_id, there.etag
        request.request_id = _request_id(step, request)
        return it.client.lists.UpdateList(request)
    request = pb.UpdatePolicyRequest(organization_id=it.organization_id, policy=step.wanted, update_mask=mask)
    request.policy.policy_id, request.policy.etag = there.policy_id, there.etag
    request.request_id = _request_id(step, request)
    return it.client.policies.UpdatePolicy(request)


def _request_id(step: Step[Any], request: Message) -> str:
    """The same for the same request about the same resource, and 64 characters."""
    whole = step.address.encode() + b"\0" + request.SerializeToString(deterministic=True)
    return hashlib.sha256(whole).hexdigest()


def _show(it: Invocation, steps: Sequence[Step[Any]], notes: Sequence["Note"]) -> None:
    if it.as_json:
        answer: dict[str, Any] = {"lists": [], "policies": [], "notes": [asdict(note) for note in notes]}
        for step in steps:
            kind, plural = ("list", "lists") if isinstance(step.wanted, pb.List) else ("policy", "policies")
            said = {"resource": step.address, "outcome": step.outcome, kind: output.as_dict(step.wanted)}
            answer[plural].append(said)
        output.print_json(answer)
        return
    if steps:
        rows = [[_kind(step), _name(step), step.outcome, step.address] for step in steps]
        output.print_rows(["kind", "name", "outcome", "resource"], rows)
    if notes:
        output.print_line("" if steps else "There is no policy and no list in it.")
        output.print_rows(
            ["resource", "attribute", "left out", "what"],
            [
                [
                    note.resource or output.NOTHING,
                    note.attribute or output.NOTHING,
                    "yes" if note.left_out else "no",
                    note.message,
                ]
                for note in notes
            ],
        )


def _kind(step: Step[Any]) -> str:
    return "list" if isinstance(step.wanted, pb.List) else "policy"


def _name(step: Step[Any]) -> str:
    name: str = step.wanted.name if isinstance(step.wanted, pb.List) else step.wanted.display_name
    return name
