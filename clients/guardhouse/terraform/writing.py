"""From lists and policies to a file that Terraform and we read as the same."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.terraform.reading import ACTIONS, DAYS, FILTERS, LIST_TYPES
from guardhouse.terraform.resources import LIST, MAX_HCL, POLICY, Note, Unknown

_FILTER_WORDS: Final = {number: word for word, number in FILTERS.items()}
_ACTION_WORDS: Final = {number: word for word, number in ACTIONS.items()}
_LIST_WORDS: Final = {number: word for word, number in LIST_TYPES.items() if word != "URL"}

_ACCOUNT: Final = "cloudflare_account_id"
_USED_LIST: Final = re.compile(r'"(?:\\.|[^"\\])*"|\$(?P<name>[A-Za-z0-9_.-]+)', re.DOTALL)
_ESCAPED: Final = re.compile(r'["\\]|[\x00-\x1f\x7f\u0085\u2028\u2029]')
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}


@dataclass(frozen=True, slots=True)
class Export:
    """A file's text, and what of ours it cannot hold."""

    text: str
    notes: Sequence[Note]


def write(lists: Sequence[pb.List], policies: Sequence[pb.Policy]) -> Export:
    """Write the resources of the lists, which need their values, and of the policies, in the order given."""
    labels = _labels("list", [it.name for it in lists], lower=False)
    references = {it.name: Unknown(f"{LIST}.{label}.id") for it, label in zip(lists, labels, strict=True)}
    blocks = [f'variable "{_ACCOUNT}" {{\n  type = string\n}}\n'] if lists or policies else []
    notes: list[Note] = []
    for found, label in zip(lists, labels, strict=True):
        blocks.append(_block(LIST, label, _list(found)))
        if found.type == pb.LIST_TYPE_INTEGER:
            notes.append(Note(f"{LIST}.{label}", "type", "Terraform's provider has no lists of numbers"))
    for policy, label in zip(policies, _labels("policy", [it.display_name for it in policies]), strict=True):
        blocks.append(_block(POLICY, label, _policy(policy, references)))
        if policy.HasField("staleness"):
            notes.append(Note(f"{POLICY}.{label}", "staleness", "is Guardhouse's own and not in the file"))
    text = "\n".join(blocks)
    if len(text) > MAX_HCL:
        notes.append(Note("", "", f"an import reads {MAX_HCL} characters at once: split the file, lists first"))
    return Export(text, notes)


def _list(found: pb.List) -> Iterator[str]:
    yield from _aligned(
        {
            "name": _quoted(found.name),
            "account_id": f"var.{_ACCOUNT}",
            "description": _quoted(found.description) if found.description else "",
            "type": _quoted(_LIST_WORDS[found.type]),
        }
    )
    if found.values:
        yield "items = ["
        yield from (f"  {{ value = {_quoted(value)} }}," for value in found.values)
        yield "]"


def _policy(policy: pb.Policy, references: Mapping[str, Unknown]) -> Iterator[str]:
    expressions = {name: getattr(policy, name) for name in ("traffic", "identity", "device_posture")}
    yield from _aligned(
        {
            "name": _quoted(policy.display_name),
            "enabled": str(policy.enabled).lower(),
            "account_id": f"var.{_ACCOUNT}",
            "description": _quoted(policy.description) if policy.description else "",
            "precedence": str(policy.precedence) if policy.HasField("precedence") else "",
            "action": _quoted(_ACTION_WORDS[policy.action]),
            "filters": f"[{_quoted(_FILTER_WORDS[policy.filter])}]",
            **{name: _quoted(*_parts(text, references)) for name, text in expressions.items() if text},
        }
    )
    if policy.HasField("check_session"):
        yield "rule_settings = {"
        yield "  check_session = {"
        yield f"    enforce  = {str(policy.check_session.enforce).lower()}"
        if policy.check_session.duration:
            yield f"    duration = {_quoted(policy.check_session.duration)}"
        yield "  }"
        yield "}"
    if policy.HasField("schedule"):
        days = {short: getattr(policy.schedule, day) for short, day in DAYS.items()}
        yield "schedule = {"
        yield from _aligned(
            {
                **{name: _quoted(spans) for name, spans in days.items() if spans},
                "time_zone": _quoted(policy.schedule.time_zone),
            },
            "  ",
        )
        yield "}"
    if policy.HasField("expire_time"):
        yield "expiration = {"
        yield f"  expires_at = {_quoted(policy.expire_time.ToJsonString())}"
        yield "}"


def _parts(expression: str, references: Mapping[str, Unknown]) -> Iterator[str | Unknown]:
    """The expression, with references where it uses lists. A dollar in one of its texts names no list."""
    end = 0
    for found in _USED_LIST.finditer(expression):
        if found["name"] in references:
            yield expression[end : found.start("name")]
            yield references[found["name"]]
            end = found.end()
    yield expression[end:]


def _quoted(*parts: str | Unknown) -> str:
    """A text of HCL.

    A dollar or per cent sign in front of a brace stands in a template of its own: the doubled sign that HCL has for it
    is undone by a sign before it.
    """
    written = ""
    for place, part in enumerate(parts):
        if isinstance(part, Unknown):
            written += f"${{{part.text}}}"
            continue
        signs = r"[$%]+(?=\{|\Z)" if place + 1 < len(parts) else r"[$%]+(?=\{)"
        end = 0
        for found in re.finditer(signs, part):
            written += _escaped(part[end : found.start()]) + f'${{"{found[0]}"}}'
            end = found.end()
        written += _escaped(part[end:])
    return f'"{written}"'


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04x}"), text)


def _labels(kind: str, names: Sequence[str], *, lower: bool = True) -> list[str]:
    """For each name a label that Terraform allows and nothing else of the kind has."""
    labels: dict[str, None] = {}
    for name in names:
        label = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") if lower else name
        label = label if re.match(r"[A-Za-z_]", label) else f"{kind}_{label}".strip("_")
        number = 1
        unique = label
        while unique in labels:
            number += 1
            unique = f"{label}_{number}"
        labels[unique] = None
    return list(labels)


def _aligned(attributes: Mapping[str, str], indent: str = "") -> Iterator[str]:
    """A line for each that is not empty, as `terraform fmt` has them."""
    width = max(len(name) for name, value in attributes.items() if value)
    return (f"{indent}{name:{width}} = {value}" for name, value in attributes.items() if value)


def _block(kind: str, label: str, lines: Iterator[str]) -> str:
    return "\n".join([f'resource "{kind}" "{label}" {{', *(f"  {line}" for line in lines), "}", ""])
