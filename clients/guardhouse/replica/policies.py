"""What a replica knows of policies and lists, from session's own feed."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from guardhouse import decisions
from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.durations import parse_duration, parse_session_timeout
from guardhouse.expressions import ListInvalid, NamedList
from guardhouse.policies import DAYS, GatewayPolicy, ListType, PolicyInvalid, PolicySet, Schedule, ScheduleInvalid
from guardhouse.replica.coverage import Coverage
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import from_timestamp

log = logging.getLogger(__name__)

_LAST: Final = 1 << 31
_FILTERS: Final = {int(known): known for known in PolicyFilter}
_NO_POLICY_SET: Final = PolicySet.compile(())


class PolicyState:
    """One organization's part of session's own feed. No policy stays open for longer than `max_open`."""

    def __init__(self, organization_id: str, max_open: int = 0) -> None:
        self.organization_id = organization_id
        self.policies: dict[str, decisions.Policy] = {}
        self.names: dict[str, str] = {}
        """What people call them."""
        self._max_open = max_open
        self._written: dict[str, GatewayPolicy] = {}
        self._lists: dict[str, tuple[str, NamedList]] = {}
        self._compiled: PolicySet = _NO_POLICY_SET
        self._is_compiled = True
        self._coverage = Coverage(_NO_POLICY_SET, frozenset())

    def apply(self, event: pb.Event) -> None:
        match event.WhichOneof("kind"):
            case "policy":
                policy = decided_policy(event.policy, self._max_open)
                self.policies[policy.policy_id] = policy
                self.names[policy.policy_id] = event.policy.display_name
                self._written[policy.policy_id] = _written(event.policy, policy)
                self._is_compiled = False
            case "policy_deleted":
                self.policies.pop(event.policy_deleted, None)
                self.names.pop(event.policy_deleted, None)
                self._written.pop(event.policy_deleted, None)
                self._is_compiled = False
            case "list":
                self._lists.pop(event.list.list_id, None)
                try:
                    self._lists[event.list.list_id] = event.list.name, named_list(event.list)
                except (ValueError, ListInvalid) as refusal:
                    # The policies that use it cannot be read then, and block.
                    log.error("list %s cannot be read here: %s", event.list.name, refusal)
                self._is_compiled = False
            case "list_deleted":
                self._lists.pop(event.list_deleted, None)
                self._is_compiled = False

    def compiled(self) -> PolicySet:
        """The policies, put together by the first who asks after a change."""
        if not self._is_compiled:
            self._compiled = compile_policies(self._written.values(), dict(self._lists.values()), self._compiled)
            self._is_compiled = True
        return self._compiled

    def coverage(self, sign_in_hosts: frozenset[str]) -> Coverage:
        """The same with the hosts of the identity providers, and what is remembered of both."""
        policies, coverage = self.compiled(), self._coverage
        if coverage.policies is not policies or coverage.sign_in_hosts is not sign_in_hosts:
            self._coverage = coverage = Coverage(policies, sign_in_hosts)
        return coverage

    def proposed(self, changed: Mapping[str, GatewayPolicy], deleted: Collection[str]) -> PolicySet:
        """The policies with these instead of those of the same id, and without some. Raises PolicyInvalid."""
        kept = {key: written for key, written in self._written.items() if key not in deleted}
        return PolicySet.compile({**kept, **changed}.values(), dict(self._lists.values()), previous=self.compiled())


def compile_policies(
    policies: Iterable[GatewayPolicy], lists: Mapping[str, NamedList], previous: PolicySet
) -> PolicySet:
    """A policy that a newer replica wrote and this one does not understand covers everything, and blocks it."""
    written = {each.policy.policy_id: each for each in policies}
    while True:
        try:
            return PolicySet.compile(written.values(), lists, previous=previous)
        except PolicyInvalid as refusal:
            log.error("a policy that this replica cannot read blocks whatever it may cover: %s", refusal)
            written[refusal.policy_id] = _unread(
                written[refusal.policy_id].policy, written[refusal.policy_id].precedence
            )


def _written(of: pb.Policy, policy: decisions.Policy) -> GatewayPolicy:
    try:
        return gateway_policy(of, policy)
    except ScheduleInvalid as refusal:
        log.error("a policy that this replica cannot read blocks whatever it may cover: %s: %s", of.policy_id, refusal)
        return _unread(policy, _precedence(of))


def _unread(policy: decisions.Policy, precedence: int) -> GatewayPolicy:
    return GatewayPolicy(replace(policy, action=PolicyAction.BLOCK), precedence)


def _precedence(of: pb.Policy) -> int:
    return of.precedence if of.HasField("precedence") else _LAST


def gateway_policy(of: pb.Policy, policy: decisions.Policy) -> GatewayPolicy:
    """A policy as the contract has it. One without a precedence comes behind those that have one.

    Raises ScheduleInvalid, also for a time zone that only a newer database has.
    """
    return GatewayPolicy(
        policy,
        _precedence(of),
        of.traffic,
        of.identity,
        of.device_posture,
        read_schedule(of.schedule) if of.HasField("schedule") else None,
        from_timestamp(of.expire_time) if of.HasField("expire_time") else None,
    )


def read_schedule(of: pb.Schedule) -> Schedule:
    """Raises ScheduleInvalid."""
    return Schedule.read(of.time_zone, *(getattr(of, day) for day in DAYS))


def named_list(of: pb.List) -> NamedList:
    """A list as expressions use it. Raises ListInvalid, and ValueError for a type that only a newer release has."""
    return NamedList.of(ListType(of.type).type, of.values)


def decided_policy(of: pb.Policy, max_open: int) -> decisions.Policy:
    """What a newer replica may have written and this one does not know is no DNS, does not allow and is not open."""
    check, staleness = of.check_session, of.staleness
    opens = staleness.mode == pb.STALENESS_MODE_OPEN_BOUNDED
    return decisions.Policy(
        policy_id=of.policy_id,
        enabled=of.enabled,
        filter=_FILTERS.get(of.filter, PolicyFilter.L4),
        action=PolicyAction.ALLOW if of.action == pb.POLICY_ACTION_ALLOW else PolicyAction.BLOCK,
        timeout=parse_session_timeout(check.duration, "duration") if check.enforce else None,
        max_open=min(parse_duration(staleness.max_open, "max_open"), max_open) if opens else 0,
    )
