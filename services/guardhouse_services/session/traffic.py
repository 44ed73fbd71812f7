"""Checks of traffic: decides all that a call asks at one state and one time.

As in checking.py this is the path of every connection, so nothing is done twice: what decides is looked up once for all
items, and only the traffic itself is read and matched for each.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from guardhouse.decisions import MAX_VALID_FOR, Decision, PolicyFilter
from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.expressions import Traffic, TrafficInvalid, read_texts
from guardhouse.ids import ORGANIZATION, REGISTRATION, check_id
from guardhouse.policies import CONNECTION, QUERY, REQUEST
from guardhouse.replica import RegistryState, Subject, cover_traffic, judge_traffic, refusal
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.session.checking import FIELDS, Reply, Wants, fill, finished, form_of
from guardhouse_services.session.replica import Replica

Filters = tuple[PolicyFilter, ...]
Texts = tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]

FILTERS: Final[dict[int, Filters]] = {
    pb.TRAFFIC_KIND_CONNECTION: CONNECTION,
    pb.TRAFFIC_KIND_REQUEST: REQUEST,
    pb.TRAFFIC_KIND_QUERY: QUERY,
}
MAX_FIELDS: Final = 100
MAX_VALUES: Final = 1000
# A batch says which policy it was, which its items do not.
IN_A_BATCH: Final[Wants] = tuple(name != "registration_id" for name in FIELDS)

_NO_LISTS: Final[Mapping[str, tuple[str, ...]]] = {}
_ALLOW: Final = Decision.ALLOW


class Item(Protocol):
    """A question."""

    @property
    def registration_id(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def kind(self) -> Any: ...

    @property
    def traffic(self) -> pb.Traffic: ...

    def WhichOneof(self, oneof_group: Any) -> str | None: ...  # noqa: N802  # as messages have it


def alone() -> tuple[pb.CheckTrafficResponse, pb.CheckAnswer]:
    response = pb.CheckTrafficResponse()
    return response, response.answer


def in_a_batch() -> tuple[pb.BatchCheckTrafficResponse, pb.CheckAnswer]:
    response = pb.BatchCheckTrafficResponse()
    return response, response.answers.add()


def answer(
    replica: Replica,
    organization_id: str,
    items: Iterable[Item],
    response: pb.CheckTrafficResponse | pb.BatchCheckTrafficResponse,
    new: Callable[[], tuple[pb.CheckTrafficResponse | pb.BatchCheckTrafficResponse, pb.CheckAnswer]],
    wants: Wants,
    where: str = "",
) -> Reply:
    """The response with an answer of `new` for each item.

    It waits for nothing, so what it finds holds until it is done. `where` names an item's place in the request, for
    InvalidField, which it raises for what is no id, no address or no traffic.
    """
    check_id(organization_id, ORGANIZATION, "organization_id")
    facts = replica.traffic_facts(organization_id)
    users, authentications, registrations = facts.users, facts.authentications, facts.registry.registrations
    now, staleness, max_staleness = replica.now(), replica.staleness_of(organization_id), replica.max_staleness
    is_fresh = staleness is not None and max_staleness - staleness >= MAX_VALID_FOR
    form, degraded_answers = form_of(new, wants), 0
    parts: list[bytes] = []
    for index, item in enumerate(items):
        if (filters := FILTERS.get(item.kind)) is None:
            raise _no_kind(item.kind, where.format(index))
        subject: Subject | None
        if registration_id := item.registration_id:
            subject = registrations.get(registration_id)
            if subject is None:
                check_id(registration_id, REGISTRATION, f"{where.format(index)}registration_id")
        else:
            subject = _holder(facts.registry, item, where.format(index))
        fields, lists = _texts(item.traffic, where, index)
        try:
            covering = cover_traffic(facts, subject, filters, fields, lists, now)
        except TrafficInvalid as invalid:
            raise refusal(fields, invalid, f"{where.format(index)}traffic.") from None
        # As in checking.py. What answers a query may change with the hour, and where no policy decides there is none to
        # compare.
        authentication, removed, revoked = None, -1, -1
        may_keep = is_fresh and subject is not None and covering and filters is not QUERY
        if may_keep and subject is not None:
            user = subject.user if subject.users is users else subject.join(users)
            if user is not None:
                removed, revoked = user.removed_revision, user.revoked_revision
            authentication = authentications.get(subject.registration_id)
            if (
                subject.form is form
                and subject.asked == covering
                and subject.authentication is authentication
                and subject.removed == removed
                and subject.revoked == revoked
                and subject.authenticate_time <= now <= subject.until()
                and now <= subject.unchanged[1] - MAX_VALID_FOR
            ):
                parts.append(subject.answer)
                continue
        verdict, policy = judge_traffic(facts, subject, covering, filters, now, staleness, max_staleness)
        if verdict.degraded:
            degraded_answers += 1
        one, made = new()
        fill(made, verdict, subject, policy, wants)
        part = one.SerializeToString()
        parts.append(part)
        if may_keep and covering and policy is not None and verdict.decision is _ALLOW and subject is not None:
            subject.keep(covering, verdict, policy, removed, revoked, part, form)
    return finished(parts, response, replica, now, staleness, degraded_answers)


def read(sent: pb.Traffic, where: str = "", index: int = 0) -> Traffic:
    """What policies ask about. Raises InvalidField, which names it with `where`, the place of an item."""
    fields, lists = _texts(sent, where, index)
    try:
        return read_texts(fields, lists)
    except TrafficInvalid as invalid:
        raise refusal(fields, invalid, f"{where.format(index)}traffic.") from None


def _texts(sent: pb.Traffic, where: str, index: int) -> Texts:
    """The fields with one value, and those with several. Raises InvalidField if they are too many."""
    fields, lists = sent.fields, sent.lists
    if len(fields) > MAX_FIELDS or len(lists) > MAX_FIELDS:
        field = f"{where.format(index)}traffic.{'fields' if len(fields) > MAX_FIELDS else 'lists'}"
        raise InvalidField(field, f"{field} has more than {MAX_FIELDS} entries")
    if not lists:
        return fields, _NO_LISTS
    several = {name: tuple(values.values) for name, values in lists.items()}
    if any(len(values) > MAX_VALUES for values in several.values()):
        raise InvalidField(f"{where.format(index)}traffic.lists", f"a field has at most {MAX_VALUES} values")
    return fields, several


def _holder(registry: RegistryState, item: Item, where: str) -> Subject | None:
    if item.WhichOneof("subject") is None:
        raise FieldRequired(f"{where}registration_id", f"{where}registration_id or {where}address is required")
    if not item.address:
        raise FieldRequired(f"{where}{item.WhichOneof('subject')}")
    try:
        return registry.holder(item.address)
    except (OSError, ValueError):
        raise InvalidField(f"{where}address", f"{item.address[:64]!r} is no IPv4 or IPv6 address") from None


def _no_kind(kind: int, where: str) -> InvalidField:
    field = f"{where}kind"
    return InvalidField(field, f"{kind} is no value of {field}") if kind else FieldRequired(field)
