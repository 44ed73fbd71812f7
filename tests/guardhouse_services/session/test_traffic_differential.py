"""The whole decision on traffic, from the feeds to the answer, against the plainest reading of the decisions: random
policies for random people on random devices, who send random traffic while things change (decisions 27 to 30a, 34, 35).

The plain reading shares nothing with the server: not the parser, the compiler, the index nor the decision function. It
evaluates the trees of which the policies were written, one policy after the other.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from guardhouse.decisions import Decision, Reason
from guardhouse.durations import SECOND
from guardhouse.expressions import FIELDS, Scope, Type
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import to_timestamp
from tests.guardhouse.expressions import naive
from tests.guardhouse_services.session import world as facts
from tests.guardhouse_services.session.test_checks import servicer
from tests.guardhouse_services.session.world import HOUR, MAX_STALENESS, ORGANIZATION, World, call

ROUNDS = 20
BATCH = 50
BEGAN = 1_774_746_000 * SECOND
"""Sunday 2026-03-29T01:00:00Z, when clocks go forward in Europe."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
TIMEOUTS = {"1s": SECOND, "10m0s": 600 * SECOND, "1h0m0s": HOUR}
AGES = (0, *TIMEOUTS.values())
OPEN = 600 * SECOND
LIST_TYPES = {Type.ADDRESS: pb.LIST_TYPE_IP, Type.INTEGER: pb.LIST_TYPE_INTEGER, Type.TEXT: pb.LIST_TYPE_TEXT}
L4, HTTP, DNS = pb.POLICY_FILTER_L4, pb.POLICY_FILTER_HTTP, pb.POLICY_FILTER_DNS
TRAFFIC = {L4: Scope.L4_TRAFFIC, HTTP: Scope.HTTP_TRAFFIC, DNS: Scope.DNS_TRAFFIC}
FILTERS: Mapping[int, Sequence[pb.PolicyFilter.ValueType]] = {
    pb.TRAFFIC_KIND_CONNECTION: [L4],
    pb.TRAFFIC_KIND_REQUEST: [L4, HTTP],
    pb.TRAFFIC_KIND_QUERY: [DNS],
}
KINDS = (pb.TRAFFIC_KIND_CONNECTION, pb.TRAFFIC_KIND_REQUEST, pb.TRAFFIC_KIND_REQUEST, pb.TRAFFIC_KIND_QUERY)
DOMAINS = {
    "net.sni.domains": "net.sni.host",
    "http.request.domains": "http.request.host",
    "dns.domains": "dns.fqdn",
}
NAMES = {scope: [name for name, it in FIELDS.items() if scope in it.scopes] for scope in TRAFFIC.values()}
SIGN_IN = "b.a.b"
HOSTS = ("net.sni.host", "http.request.host", "dns.fqdn")

KNOWN_OF_PEOPLE = {"identity.email", "identity.name"}
EMAILS = [*naive.TEXTS, *["a@b", "a+x@b", "a+y@b", "a.+@B", "a.x@b.c"] * 3]

USERS = [f"usr_{number:032x}" for number in range(4)]
DEVICES = [f"reg_{number:032x}" for number in range(8)]
NOBODY = "reg_" + "f" * 32


class SetClock:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.time = BEGAN

    def now(self) -> int:
        return self.time

    def steady(self) -> int:
        return self.time


@dataclass(slots=True)
class Written:
    """A policy, and the trees of which it was written; None is always true."""

    message: pb.Policy
    trees: dict[str, naive.Tree | None]
    timeout: int
    max_open: int
    zone: str = ""
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What has been said."""

    users: dict[str, identity.UserRecord] = field(default_factory=dict)
    registrations: dict[str, registry.RegistrationRecord] = field(default_factory=dict)
    authentications: dict[str, identity.Authentication] = field(default_factory=dict)
    policies: dict[str, Written] = field(default_factory=dict)
    blocks_by_default: bool = False
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Asked:
    item: pb.CheckTrafficItem
    values: Mapping[str, Any]


Answer = tuple[int, int, str, str, int | None, int, bool]
"""Decision, reason, policy, user, the session's end, for how long it holds, and whether it is degraded."""


@pytest.mark.parametrize(
    "requests", [5_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1_200)])]
)
async def test_every_answer_is_what_the_decisions_say(requests: int) -> None:
    chance = random.Random(requests + 1)
    counts: dict[tuple[int, int], int] = {}
    deciding = 0
    for _ in range(ROUNDS):
        clock, known = SetClock(), Known()
        before: list[Asked] = []
        latest = 0
        async with World(clock, MAX_STALENESS, max_open=24 * HOUR) as world:
            world.own.publish(*_lists())
            world.registry.publish()
            world.identity.publish(_provider())
            for link, event in _first(chance, world, known):
                link.publish(event)
            links = (world.identity, world.registry, world.own)
            for _ in range(requests // ROUNDS // BATCH):
                clock.time = BEGAN
                for link in links:
                    link.up = True
                for link, event in _happening(chance, world, known):
                    of_all = event.WhichOneof("kind") == "organization"
                    link.publish(event, organization_id="" if of_all else ORGANIZATION)
                await world.settle()
                for link in links:
                    link.up = False
                clock.time, staleness = _moment(chance)
                latest = max(latest, clock.time)
                for follower in world.replica.followers:
                    follower.fresh_as_of = clock.time - staleness if staleness is not None else 0
                names = {kind: _names(known, kind) for kind in FILTERS}
                # Half of it was asked before: whatever is kept of an answer must still be so.
                asked = [_asked(chance, names) for _ in range(BATCH - len(before) // 2)]
                asked += chance.sample(before, len(before) // 2)
                before = asked
                said = await _said(chance, world, [it.item for it in asked])
                degraded = False
                for one, answer in zip(asked, said, strict=True):
                    expected = _decided(known, one, clock.time, staleness)
                    degraded |= expected[-1]
                    assert answer[:-2] == expected[:-2], (clock.time, staleness, one, known)
                    _check_until(known, one, clock.time, staleness, answer, expected, clock.time < latest)
                    counts[expected[:2]] = counts.get(expected[:2], 0) + 1
                    deciding += bool(expected[2])
                assert said[0][-1] == degraded
    # Where one answer hardly ever comes, little is compared.
    assert len(counts) >= 12, counts
    assert min(counts.values()) > requests // 500, counts
    assert deciding > requests // 3, counts


# What there is, and what happens.


def _lists() -> Iterator[pb.Event]:
    for name, (type_, values) in naive.LISTS.items():
        yield pb.Event(list=pb.List(list_id=f"lst_{name}", name=name, type=LIST_TYPES[type_], values=values))


def _provider() -> identity.Event:
    provider = identity.IdentityProvider(identity_provider_id="idp_" + "1" * 32, issuer=f"https://{SIGN_IN}/realm")
    return identity.Event(identity_provider=provider)


def _first(chance: random.Random, world: World, known: Known) -> Iterator[tuple[Any, Any]]:
    for user_id in USERS[: chance.choice([3, 4, 4, 4, 4, 4])]:
        yield world.identity, _user(chance, known, user_id)
    for device in DEVICES[:-1]:
        yield world.registry, _registration(chance, known, device)
    for place in range(chance.choice([2, 6, 12])):
        yield world.own, _policy(chance, known, place)


def _happening(chance: random.Random, world: World, known: Known) -> Iterator[tuple[Any, Any]]:
    """Two things, one of which may be a policy's."""
    match chance.randrange(7):
        case 0 | 5 | 6:
            yield world.identity, _user(chance, known, chance.choice(USERS))
        case 1:
            yield world.registry, _registration(chance, known, chance.choice(DEVICES))
        case 2:
            device = chance.choice(DEVICES)
            known.revision += 1
            time = to_timestamp(BEGAN - chance.choice(AGES) + chance.choice((-1, 0, 1)))
            known.authentications[device] = fact = identity.Authentication(
                registration_id=device, authenticate_time=time, revision=known.revision
            )
            yield world.identity, identity.Event(authentication=fact)
        case 3 if len(known.registrations) > 6:
            device = chance.choice(list(known.registrations))
            del known.registrations[device]
            yield world.registry, registry.Event(registration_deleted=device)
        case 3:
            yield world.registry, _registration(chance, known, chance.choice(DEVICES))
        case _:
            known.blocks_by_default = not known.blocks_by_default
            organization = identity.Organization(organization_id=ORGANIZATION)
            action = identity.DEFAULT_ACTION_BLOCK if known.blocks_by_default else identity.DEFAULT_ACTION_ALLOW
            organization.default_action = action
            yield world.identity, identity.Event(organization=organization)
    if chance.random() < 0.4:
        yield world.own, _policy(chance, known, chance.randrange(len(known.policies) + 1))


def _user(chance: random.Random, known: Known, user_id: str) -> identity.Event:
    known.revision += 1
    # Some registrations and authentications are behind it, and one may be of the same revision.
    recent = known.revision - chance.randrange(min(10, known.revision))
    removed, revoked = chance.choice([0, 0, 0, 0, recent]), chance.choice([0, 0, recent, known.revision])
    event = facts.user(user_id, removed=removed, revoked=revoked)
    of = event.user.user
    of.email, of.display_name = chance.choice(EMAILS), chance.choice(naive.TEXTS)
    of.groups.extend(chance.choices(naive.TEXTS, k=chance.randrange(3)))
    known.users[user_id] = event.user
    return event


def _registration(chance: random.Random, known: Known, device: str) -> registry.Event:
    known.revision += 1
    time = BEGAN - chance.choice(AGES) + chance.choice((-1, 0, 1))
    event = facts.registration(
        time,
        device,
        user_id=chance.choice(USERS),
        service_token_id=facts.MACHINE if chance.random() < 0.2 else "",
        revoked=chance.random() < 0.1,
        authorized=known.revision,
    )
    of, number = event.registration.registration, DEVICES.index(device)
    of.ipv4, of.ipv6 = f"100.96.0.{number}", f"fd00::{number + 1}"
    if chance.random() < 0.7:
        event.registration.posture.passed.extend(chance.choices(naive.TEXTS, k=chance.randrange(3)))
        event.registration.posture.failed.extend(chance.choices(naive.TEXTS, k=chance.randrange(3)))
        reported = BEGAN - chance.choice(naive.NUMBERS) * SECOND + chance.choice((-1, 0, 1))
        event.registration.posture.report_time.CopyFrom(to_timestamp(reported))
    known.registrations[device] = event.registration
    return event


def _policy(chance: random.Random, known: Known, place: int) -> pb.Event:
    """A policy of its own precedence, which it keeps."""
    made = pb.Policy(policy_id=f"pol_{place:032x}", precedence=1 + (place * 7) % 13, enabled=chance.random() < 0.9)
    made.filter = chance.choice([L4, L4, HTTP, HTTP, DNS])
    made.action = chance.choice([pb.POLICY_ACTION_ALLOW, pb.POLICY_ACTION_ALLOW, pb.POLICY_ACTION_BLOCK])
    trees: dict[str, naive.Tree | None] = {}
    scopes = {"traffic": TRAFFIC[made.filter], "identity": Scope.IDENTITY, "device_posture": Scope.DEVICE_POSTURE}
    for (name, scope), share in zip(scopes.items(), (0.7, 0.4, 0.2), strict=True):
        drawn = _tree(chance, scope) if chance.random() < share else None
        trees[name] = drawn
        setattr(made, name, naive.written(chance, drawn) if drawn is not None else "")
    written = Written(made, trees, 0, 0)
    if made.action == pb.POLICY_ACTION_ALLOW and made.filter != DNS and chance.random() < 0.9:
        duration, timeout = chance.choice(list(TIMEOUTS.items()))
        made.check_session.enforce, made.check_session.duration = chance.random() < 0.9, duration
        written.timeout = timeout if made.check_session.enforce else 0
    if chance.random() < 0.3:
        made.staleness.mode, made.staleness.max_open = pb.STALENESS_MODE_OPEN_BOUNDED, "10m0s"
        written.max_open = OPEN
    if made.filter == DNS:
        _limit(chance, written)
    known.policies[made.policy_id] = written
    return pb.Event(policy=made)


def _tree(chance: random.Random, scope: Scope) -> naive.Tree:
    """One that asks, if it is about people, for something that is known of them."""
    while True:
        drawn = naive.tree(chance, scope, depth=chance.choice([0, 1, 2, 2]))
        if scope is not Scope.IDENTITY or not naive.asked_for(drawn).isdisjoint(KNOWN_OF_PEOPLE):
            return drawn


def _limit(chance: random.Random, written: Written) -> None:
    """To hours of the week, and to an end."""
    made = written.message
    if chance.random() < 0.6:
        written.zone = made.schedule.time_zone = chance.choice(["Europe/Berlin", "Etc/UTC", "America/New_York"])
        for day in DAYS:
            edges = sorted(chance.sample(range(25), 2 * chance.randint(1, 3)))
            written.spans[day] = list(zip(edges[::2], edges[1::2], strict=True))
            setattr(made.schedule, day, ",".join(f"{start:02}:00-{end:02}:00" for start, end in written.spans[day]))
    if chance.random() < 0.4:
        made.expire_time.CopyFrom(to_timestamp(BEGAN + chance.choice((-1, 0, 1, HOUR))))


def _moment(chance: random.Random) -> tuple[int, int | None]:
    """A time near the end of something, and how long ago the state was proven."""
    now = BEGAN + chance.choice((0, 0, 0, 0, 0, 0, HOUR, 7 * HOUR)) + chance.choice((-1, 0, 1))
    old = [None, MAX_STALENESS, MAX_STALENESS + 1, OPEN, OPEN + 1]
    return now, chance.choice(old) if chance.random() < 0.2 else chance.randrange(MAX_STALENESS)


def _asked(chance: random.Random, names: Mapping[int, Sequence[str]]) -> Asked:
    item = pb.CheckTrafficItem(kind=chance.choice(KINDS))
    if chance.random() < 0.7:
        item.registration_id = chance.choice(DEVICES) if chance.random() < 0.95 else NOBODY
    else:
        number = chance.randrange(len(DEVICES) + 1)
        item.address = chance.choice([f"100.96.0.{number}", f"::ffff:100.96.0.{number}", f"fd00:0::{number + 1}"])
    values = naive.values(chance, chance.choices(names[item.kind], k=6))
    for name, value in values.items():
        if isinstance(value, list):
            item.traffic.lists[name].values.extend(map(_text, value))
            item.traffic.lists[name].SetInParent()
        else:
            item.traffic.fields[name] = _text(value)
    return Asked(item, values)


def _names(known: Known, kind: int) -> list[str]:
    """Fields that policies ask about, the hosts, and a few others."""
    filters = FILTERS[kind]
    trees = [it.trees["traffic"] for it in known.policies.values() if it.message.filter in filters]
    asked = {name for tree in trees if tree is not None for name in naive.asked_for(tree)}
    hosts = {host for name, host in DOMAINS.items() if any(name in NAMES[TRAFFIC[filter_]] for filter_ in filters)}
    others = (name for filter_ in filters for name in NAMES[TRAFFIC[filter_]][::9])
    return sorted(asked) * 2 + sorted(hosts) + list(others)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _said(chance: random.Random, world: World, items: Sequence[pb.CheckTrafficItem]) -> list[Answer]:
    """What the server answers, to all at once or one by one."""
    if chance.random() < 0.9:
        request = pb.BatchCheckTrafficRequest(organization_id=ORGANIZATION, items=items)
        reply = await servicer(world).BatchCheckTraffic(request, call())
        response = pb.BatchCheckTrafficResponse.FromString(reply.SerializeToString())
        return [_read(answer, response.degraded) for answer in response.answers]
    alone = []
    for item in items:
        one = pb.CheckTrafficRequest(organization_id=ORGANIZATION, kind=item.kind, traffic=item.traffic)
        if item.registration_id:
            one.registration_id = item.registration_id
        else:
            one.address = item.address
        reply = await servicer(world).CheckTraffic(one, call())
        alone.append(pb.CheckTrafficResponse.FromString(reply.SerializeToString()))
    degraded = any(each.degraded for each in alone)
    return [_read(each.answer, degraded) for each in alone]


def _read(answer: pb.CheckAnswer, degraded: bool) -> Answer:
    ends = answer.session_expire_time.ToMicroseconds() if answer.HasField("session_expire_time") else None
    lasts = answer.valid_for.ToMicroseconds()
    return answer.decision, answer.reason, answer.policy_id, answer.user_id, ends, lasts, degraded


def _check_until(
    known: Known,
    asked: Asked,
    now: int,
    staleness: int | None,
    answer: Answer,
    expected: Answer,
    was_set_back: bool,
) -> None:
    """How long an answer holds: at the latest until another policy decides, because another is in force or the posture
    is of another age. A clock that was set back may find one that was kept near the end of its session, which holds for
    less time, never for more."""
    said, most = answer[-2], expected[-2]
    assert min(1, most) <= said <= most, (now, staleness, asked, known)
    deciding = _deciding(known, asked, now)
    assert _deciding(known, asked, now + max(0, said - 1)) == deciding, (now, staleness, asked, known)
    if asked.item.kind != pb.TRAFFIC_KIND_QUERY:
        assert said == most or was_set_back or _turns(known, asked.item, now + said), (now, staleness, asked, known)


def _turns(known: Known, item: pb.CheckTrafficItem, now: int) -> bool:
    """Whether, at this time, a policy's expression on the device begins to hold or holds no longer."""
    record = _asker(known, item)
    trees = [tree for it in known.policies.values() if (tree := it.trees["device_posture"]) is not None]
    return record is not None and any(
        naive.answer(leaf, _device(record, now)) is not naive.answer(leaf, _device(record, now - 1))
        for tree in trees
        for leaf in _leaves(tree)
    )


def _leaves(tree: naive.Tree) -> Iterator[naive.Tree]:
    if tree[0] == "condition":
        yield tree
    else:
        for operand in tree[1:]:
            yield from _leaves(operand)


# The plain reading.


def _decided(known: Known, asked: Asked, now: int, staleness: int | None) -> Answer:
    item = asked.item
    record = _asker(known, item)
    default = Decision.BLOCK if known.blocks_by_default else Decision.ALLOW
    if _is_exempt(asked):
        return _judged(known, record, None, (Decision.ALLOW, Reason.SIGN_IN_HOST), now, staleness)
    best: Answer | None = None
    for policy in _deciding(known, asked, now):
        answer = _judged(known, record, policy, (Decision.ALLOW, Reason.NO_SESSION_LIMIT), now, staleness)
        if answer[0] != Decision.ALLOW:
            return answer
        if best is None or (answer[4] is not None and (best[4] is None or answer[4] < best[4])):
            best = answer
    return best or _judged(known, record, None, (default, Reason.NO_POLICY_MATCHED), now, staleness)


def _is_exempt(asked: Asked) -> bool:
    hosts = [asked.values[name] for name in HOSTS if name in asked.values]
    return bool(hosts) and all(map(_is_sign_in, hosts))


def _deciding(known: Known, asked: Asked, now: int) -> list[Written]:
    """The first match of each filter."""
    record = _asker(known, asked.item)
    if record is None or _is_exempt(asked):
        return []
    found = (_first_match(known, filter_, record, asked.values, now) for filter_ in FILTERS[asked.item.kind])
    return [policy for policy in found if policy is not None]


def _asker(known: Known, item: pb.CheckTrafficItem) -> registry.RegistrationRecord | None:
    return known.registrations.get(item.registration_id) if item.registration_id else _holder(known, item.address)


def _holder(known: Known, address: str) -> registry.RegistrationRecord | None:
    plain = address.removeprefix("::ffff:").replace("fd00:0::", "fd00::")
    for record in known.registrations.values():
        if plain in (record.registration.ipv4, record.registration.ipv6):
            return record
    return None


def _judged(
    known: Known,
    record: registry.RegistrationRecord | None,
    policy: Written | None,
    otherwise: tuple[int, int],
    now: int,
    staleness: int | None,
) -> Answer:
    """One policy's word, or, without a policy, `otherwise` where the registration may pass."""
    policy_id = policy.message.policy_id if policy is not None else ""
    open_until = max(MAX_STALENESS, policy.max_open if policy is not None else 0)
    if staleness is None or staleness > open_until:
        return Decision.BLOCK, Reason.STATE_STALE, policy_id, "", None, 0, False
    degraded = staleness > MAX_STALENESS
    lasts = min(10 * SECOND, (open_until if degraded else MAX_STALENESS) - staleness)
    if record is None:
        return Decision.BLOCK, Reason.REGISTRATION_UNKNOWN, policy_id, "", None, lasts, degraded
    of = record.registration

    def answer(decision: int, reason: int, ends: int | None = None, lasts: int = lasts) -> Answer:
        return decision, reason, policy_id, of.user_id, ends, lasts, degraded

    user = known.users.get(of.user_id)
    if user is None and not of.service_token_id:
        return answer(Decision.BLOCK, Reason.REGISTRATION_UNKNOWN)
    if user is not None and 0 < user.removed_revision >= record.authorize_revision:
        return answer(Decision.BLOCK, Reason.USER_REMOVED)
    if of.state != registry.REGISTRATION_STATE_ACTIVE:
        return answer(Decision.BLOCK, Reason.REGISTRATION_REVOKED)
    if policy is None:
        return answer(*otherwise)
    if policy.message.action == pb.POLICY_ACTION_BLOCK:
        return answer(Decision.BLOCK, Reason.POLICY_BLOCK)
    if not policy.timeout:
        return answer(*otherwise)
    since, revision = record.authenticate_time.ToMicroseconds(), record.authorize_revision
    newest = known.authentications.get(of.registration_id)
    if newest is not None and newest.revision >= revision:
        since, revision = newest.authenticate_time.ToMicroseconds(), newest.revision
    if user is not None and 0 < user.revoked_revision >= revision:
        return answer(Decision.REAUTHENTICATE, Reason.SESSION_REVOKED)
    ends = since + policy.timeout
    if since <= now < ends:
        return answer(Decision.ALLOW, Reason.SESSION_FRESH, ends, min(lasts, ends - now))
    return answer(Decision.REAUTHENTICATE, Reason.SESSION_EXPIRED, ends)


def _first_match(
    known: Known, filter_: int, record: registry.RegistrationRecord, values: Mapping[str, Any], now: int
) -> Written | None:
    user = known.users.get(record.registration.user_id)
    of = {
        "traffic": {**_domains(values), **values},
        "identity": _person(user) if user is not None else {},
        "device_posture": _device(record, now),
    }
    for policy in sorted(known.policies.values(), key=lambda it: (it.message.precedence, it.message.policy_id)):
        made = policy.message
        blocks = made.action == pb.POLICY_ACTION_BLOCK
        if (
            made.enabled
            and made.filter == filter_
            and _in_force(policy, now)
            and all(tree is None or _holds(tree, of[name], blocks) for name, tree in policy.trees.items())
        ):
            return policy
    return None


def _in_force(policy: Written, now: int) -> bool:
    if policy.message.HasField("expire_time") and now >= policy.message.expire_time.ToMicroseconds():
        return False
    if not policy.zone:
        return True
    local = (EPOCH + timedelta(microseconds=now)).astimezone(ZoneInfo(policy.zone))
    return any(start <= local.hour < end for start, end in policy.spans[DAYS[local.weekday()]])


def _holds(tree: naive.Tree, values: Mapping[str, Any], blocks: bool, spares: bool = False) -> bool:
    """As naive.answer, with the variants of an address by which nobody gets around a policy that blocks; where it says
    whom it spares, a variant is somebody else."""
    match tree:
        case ("or", *operands):
            return any(_holds(operand, values, blocks, spares) for operand in operands)
        case ("and", *operands):
            return all(_holds(operand, values, blocks, spares) for operand in operands)
        case ("not", operand):
            return not _holds(operand, values, blocks, not spares)
    _, of, some, key, operator, literal = tree
    if not blocks or of.name != "identity.email" or of.name not in values:
        return naive.answer(tree, values)
    if operator == "!=":
        return not _holds(("condition", of, some, key, "==", literal), values, blocks, not spares)
    if spares:
        return naive.answer(tree, values)
    address = values[of.name]
    if operator == "matches":
        return any(naive.answer(tree, {of.name: each}) for each in (address, _plain(address)))
    several = {"in": literal, "list": naive.LISTS[literal][1] if operator == "list" else ()}.get(operator, [literal])
    return _plain(address).lower() in [_plain(member).lower() for member in several]


def _plain(address: str) -> str:
    if "@" not in address:
        return address
    local, domain = address.rsplit("@", 1)
    return local.split("+")[0].replace(".", "") + "@" + domain


def _person(user: identity.UserRecord) -> dict[str, Any]:
    of = user.user
    groups = list(of.groups)
    person: dict[str, Any] = {
        "identity.groups.name": groups,
        "identity.groups.id": groups,
        "identity.groups.email": [group for group in groups if "@" in group],
    }
    if of.email:
        person["identity.email"] = of.email
    if of.display_name:
        person["identity.name"] = of.display_name
    return person


def _device(record: registry.RegistrationRecord, now: int) -> dict[str, Any]:
    if not record.HasField("posture"):
        return {}
    posture = record.posture
    return {
        "device_posture.checks.passed": list(posture.passed),
        "device_posture.checks.failed": list(posture.failed),
        "device_posture.age": max(0, (now - posture.report_time.ToMicroseconds()) // SECOND),
    }


def _domains(values: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: list(_above(values[host])) for name, host in DOMAINS.items() if host in values}


def _above(host: str) -> Iterable[str]:
    labels = host.removesuffix(".").split(".")
    return (".".join(labels[place:]) for place in range(len(labels)))


def _is_sign_in(host: str | None) -> bool:
    return host is not None and host.lower().removesuffix(".") == SIGN_IN
