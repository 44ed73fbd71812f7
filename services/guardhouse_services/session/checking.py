"""Checks: decides all that a call asks at one state and one time.

This is the path of every connection through a gateway, so it is one loop and does nothing twice: an id has its form
looked at only if it is not known, a field that nobody wants is not set, sub-messages are set in place, because to build
them first takes twice as long, and what was allowed is not decided anew while nothing that decided it has changed.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.decisions import MAX_VALID_FOR, Decision, Policy, Reason, Registration, Verdict, check_session
from guardhouse.durations import SECOND
from guardhouse.errors import InvalidField
from guardhouse.ids import ORGANIZATION, POLICY, REGISTRATION, check_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import set_time, to_duration
from guardhouse_services.session.replica import Replica

FIELDS: Final = tuple(field.name for field in pb.CheckAnswer.DESCRIPTOR.fields)
Wants = tuple[bool, ...]
"""For each of FIELDS whether it is wanted."""
ALL: Final[Wants] = (True,) * len(FIELDS)
# The items of a batch hold these ids already.
IN_A_BATCH: Final[Wants] = tuple(name not in ("policy_id", "registration_id") for name in FIELDS)

_ALLOW, _STALE = Decision.ALLOW, Reason.STATE_STALE
_LONGEST: Final = to_duration(MAX_VALID_FOR)

Response = pb.CheckSessionResponse | pb.BatchCheckSessionsResponse | pb.StreamCheckSessionsResponse
New = Callable[[], tuple[Response, pb.CheckAnswer]]
"""Makes a response with nothing but one answer, which is to be filled."""


def alone() -> tuple[pb.CheckSessionResponse, pb.CheckAnswer]:
    response = pb.CheckSessionResponse()
    return response, response.answer


def in_a_batch() -> tuple[pb.BatchCheckSessionsResponse, pb.CheckAnswer]:
    response = pb.BatchCheckSessionsResponse()
    return response, response.answers.add()


def in_a_stream() -> tuple[pb.StreamCheckSessionsResponse, pb.CheckAnswer]:
    response = pb.StreamCheckSessionsResponse()
    return response, response.answers.add()


class Reply:
    """A response in serialised parts: those of messages of a type, one behind the other, are one such message."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    def SerializeToString(self) -> bytes:  # noqa: N802  # as messages have it
        return b"".join(self._parts)


class Item(Protocol):
    """A question."""

    @property
    def registration_id(self) -> str: ...

    @property
    def policy_id(self) -> str: ...


def wants(read_mask: FieldMask) -> Wants:
    """The fields that a batch is to have: ids that its items hold only if they are asked for. Raises InvalidField."""
    return _wants(frozenset(read_mask.paths)) if read_mask.paths else IN_A_BATCH


@lru_cache(256)
def _wants(paths: frozenset[str]) -> Wants:
    for path in paths.difference(FIELDS):
        raise InvalidField("read_mask", f"{path[:64]!r} is no field of CheckAnswer; it has {', '.join(FIELDS)}")
    return tuple(name in paths for name in FIELDS)


@lru_cache(256)
def form_of(new: New, wants: Wants) -> object:
    """One object for all answers that are alike but for what they say."""
    return new, wants


def answer(
    replica: Replica,
    organization_id: str,
    items: Iterable[Item],
    response: Response,
    new: New,
    wants: Wants,
    where: str = "",
) -> Reply:
    """The response with an answer of `new` for each item.

    It waits for nothing, so what it finds holds until it is done. `where` names an item's place in the request, for
    InvalidField, which it raises for an id that is none.
    """
    users, authentications, registrations, policies = replica.of(organization_id)
    now, staleness, max_staleness = replica.now(), replica.staleness_of(organization_id), replica.max_staleness
    is_fresh = staleness is not None and max_staleness - staleness >= MAX_VALID_FOR
    form, degraded_answers = form_of(new, wants), 0
    parts: list[bytes] = []
    for index, item in enumerate(items):
        registration_id = item.registration_id
        subject, policy = registrations.get(registration_id), policies.get(item.policy_id)
        if subject is None or policy is None:
            check_id(organization_id, ORGANIZATION, "organization_id")
            check_id(registration_id, REGISTRATION, f"{where.format(index)}registration_id")
            check_id(item.policy_id, POLICY, f"{where.format(index)}policy_id")
        user = authentication = None
        removed = revoked = -1
        if subject is not None:
            authentication = authentications.get(registration_id)
            user = subject.user if subject.users is users else subject.join(users)
            if user is not None:
                removed, revoked = user.removed_revision, user.revoked_revision
            if (
                is_fresh
                and policy is not None
                and subject.form is form
                and subject.asked is policy
                and subject.authentication is authentication
                and subject.removed == removed
                and subject.revoked == revoked
                and subject.authenticate_time <= now <= subject.until()
            ):
                # It was allowed, and nothing that this follows from has changed but the time.
                parts.append(subject.answer)
                continue
            if authentication is not subject.authentication:
                subject.renew(authentication)
        verdict = check_session(subject, user, policy, now, staleness, max_staleness)
        if verdict.degraded:
            degraded_answers += 1
        one, made = new()
        fill(made, verdict, subject, policy, wants)
        part = one.SerializeToString()
        parts.append(part)
        # Refusals are not kept: they are few, and some end by themselves.
        if verdict.decision is _ALLOW and is_fresh and subject is not None and policy is not None:
            subject.keep(policy, verdict, policy, removed, revoked, part, form)
    return finished(parts, response, replica, now, staleness, degraded_answers)


def finished(
    parts: list[bytes],
    response: Any,
    replica: Replica,
    now: int,
    staleness: int | None,
    degraded_answers: int,
) -> Reply:
    """The answers, and in the response that holds none yet how fresh they are."""
    if staleness is not None:
        set_time(response.fresh_as_of, now - staleness)
        if degraded_answers:
            response.degraded = True
            replica.note_degraded(degraded_answers, staleness)
    return Reply([*parts, response.SerializeToString()])


def fill(
    made: pb.CheckAnswer, verdict: Verdict, registration: Registration | None, policy: Policy | None, wants: Wants
) -> None:
    """Sets what is wanted of a verdict."""
    (
        wants_decision,
        wants_reason,
        wants_policy_id,
        wants_registration_id,
        wants_user_id,
        wants_authenticate_time,
        wants_expire_time,
        wants_valid_for,
    ) = wants
    decision, reason, expire_time, valid_for, _ = verdict
    if wants_decision:
        made.decision = decision  # type: ignore[assignment]  # the enums' values are the contract's
    if wants_reason:
        made.reason = reason  # type: ignore[assignment]
    if wants_policy_id and policy is not None:
        made.policy_id = policy.policy_id
    if registration is not None:
        if wants_registration_id:
            made.registration_id = registration.registration_id
        if wants_user_id and reason is not _STALE:
            made.user_id = registration.user_id
        if wants_authenticate_time and reason is not _STALE and (time := registration.authenticate_time):
            timestamp = made.authenticate_time
            timestamp.seconds = time // SECOND
            timestamp.nanos = time % SECOND * 1000
    if wants_expire_time and expire_time is not None:
        timestamp = made.session_expire_time
        timestamp.seconds = expire_time // SECOND
        timestamp.nanos = expire_time % SECOND * 1000
    if wants_valid_for:
        if valid_for == MAX_VALID_FOR:
            made.valid_for.CopyFrom(_LONGEST)
        else:
            set_time(made.valid_for, valid_for)
