"""What is remembered of single values, put together, is what reading and matching all of them gives (decision 29)."""

import random
import tracemalloc
from collections.abc import Sequence

import pytest

from guardhouse.expressions import OTHER_NAMES, Scope, TrafficInvalid, read_texts
from guardhouse.policies import CONNECTION, QUERY, REQUEST, PolicySet
from guardhouse.replica import PolicyState
from guardhouse.replica import coverage as it
from guardhouse.replica.coverage import Coverage
from guardhouse.session.v1 import session_pb2 as pb
from tests.guardhouse.policies import drawing
from tests.guardhouse.policies.writing import HTTP, written

TRAFFIC = {
    CONNECTION: [Scope.L4_TRAFFIC],
    REQUEST: [Scope.L4_TRAFFIC, Scope.HTTP_TRAFFIC],
    QUERY: [Scope.DNS_TRAFFIC],
}
SIGN_IN = frozenset({"a.b", "b"})
SECOND_NAMES = {name: other for other, name in OTHER_NAMES.items()}

Texts = tuple[dict[str, str], dict[str, tuple[str, ...]]]


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def texts(chance: random.Random, scopes: Sequence[Scope]) -> Texts:
    """In any order, some under their second names, and some under both: then the later counts."""
    fields: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    drawn = [*drawing.facts(chance, *scopes).items()]
    if chance.random() < 0.3:
        drawn += drawing.facts(chance, *scopes).items()
    chance.shuffle(drawn)
    for name, value in drawn:
        spelling = SECOND_NAMES[name] if name in SECOND_NAMES and chance.random() < 0.4 else name
        if isinstance(value, list):
            lists[spelling] = tuple(map(text, value))
        else:
            fields[spelling] = text(value)
    return fields, lists


def test_values_one_by_one_cover_what_they_cover_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a value was seen before, was forgotten, or is new."""
    monkeypatch.setattr(it, "REMEMBERED", 40)
    monkeypatch.setattr(it, "LONGEST_REMEMBERED", 8)
    chance = random.Random(1)
    signing_in = twice = lengths = 0
    for number in range(8):
        policies = PolicySet.compile(drawing.policies(chance, [2, 6, 20, 80][number % 4]), drawing.LISTS)
        coverage = Coverage(policies, SIGN_IN)
        for _ in range(300):
            filters, scopes = chance.choice(list(TRAFFIC.items()))
            fields, lists = texts(chance, scopes)
            who = chance.choice([-1, chance.getrandbits(policies.end)])
            traffic = read_texts(fields, lists)
            is_exempt = it.signs_in(traffic, SIGN_IN)
            expected = None if is_exempt else policies.match(filters, traffic, who)
            assert coverage.find(filters, fields, lists, who) == expected, (fields, lists)
            signing_in += is_exempt
            twice += len(traffic) < len(fields) + len(lists)
            lengths += len(expected or ())
    # Where one answer hardly ever comes, little is compared.
    assert signing_in > 20
    assert twice > 20
    assert lengths > 400


@pytest.mark.parametrize(
    ("name", "given"),
    [("net.dst.port", "65536"), ("net.dst.prot", "1"), ("app.ids", "1"), ("net.dst.ip", ("10.0.0.1",))],
)
@pytest.mark.parametrize("who", [-1, 0])
def test_what_cannot_be_is_refused_each_time(name: str, given: str | tuple[str, ...], who: int) -> None:
    """Also of a field that no policy asks for, and for nobody."""
    coverage = Coverage(PolicySet.compile([]), frozenset())
    one = {name: given} if isinstance(given, str) else {}
    several = {name: given} if isinstance(given, tuple) else {}
    for _ in range(3):
        with pytest.raises(TrafficInvalid):
            coverage.find(CONNECTION, {"net.dst.port": "443", **one}, several, who)


@pytest.mark.parametrize("length", [10, 8_000])
def test_what_is_remembered_has_a_bound(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends traffic chooses its values, and fills no memory with them."""
    monkeypatch.setattr(it, "REMEMBERED", 1_000)
    where = 'http.request.uri.path matches "^/1" and any(app.statuses[*] == "x") and http.request.method == "GET"'
    coverage = Coverage(PolicySet.compile([written("pol_1", where, filter_=HTTP)]), frozenset())

    def ask(times: range) -> int:
        for place in times:
            value = f"/{place}".ljust(length, "x")
            # Only what comes again is remembered.
            for _ in range(2):
                coverage.find(REQUEST, {"http.request.uri.path": value}, {"app.statuses": (value, value)}, -1)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        full = ask(range(1_000))
        assert full < 1_000 * 1_000
        assert ask(range(1_000, 5_000)) - full < 100_000
    finally:
        tracemalloc.stop()


def test_an_edit_forgets_what_was_remembered() -> None:
    """Of policies, of lists, and of where people sign in; and nothing else does."""
    state, no_hosts, hosts = PolicyState("org_1"), frozenset[str](), frozenset({"a.example"})
    asked = {"net.sni.host": "a.example"}

    def found(sign_in_hosts: frozenset[str]) -> list[str] | None:
        coverage = state.coverage(sign_in_hosts)
        first, again, covering = (coverage.find(CONNECTION, asked, {}, -1) for _ in range(3))
        assert first == again == covering
        return None if covering is None else [policy.policy_id for policy in covering]

    assert found(no_hosts) == []
    listed = pb.List(list_id="lst_1", name="hosts", type=pb.LIST_TYPE_HOST, values=["b.example"])
    state.apply(pb.Event(list=listed))
    policy = pb.Policy(policy_id="pol_1", enabled=True, filter=pb.POLICY_FILTER_L4, traffic="net.sni.host in $hosts")
    state.apply(pb.Event(policy=policy))
    assert found(no_hosts) == []
    listed.values[:] = ["a.example"]
    state.apply(pb.Event(list=listed))
    assert found(no_hosts) == ["pol_1"]
    assert state.coverage(no_hosts) is state.coverage(no_hosts)
    assert found(hosts) is None
    state.apply(pb.Event(policy_deleted="pol_1"))
    assert found(no_hosts) == []
