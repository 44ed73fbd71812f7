"""Which policy decides: order, conditions that are joined, e-mail addresses, lists, edits."""

from typing import Any

import pytest

from guardhouse.decisions import PolicyFilter
from guardhouse.expressions import NamedList, Scope, Type, compile_expression, parse_expression, read_traffic
from guardhouse.policies import CONNECTION, QUERY, REQUEST, GatewayPolicy, PolicyInvalid, PolicySet, Step
from tests.guardhouse.policies.writing import BLOCK, DNS, HTTP, L4, matched, written

WIKI = {"net.dst.ip": "10.1.2.3", "net.dst.port": 443, "http.request.host": "wiki.example.com"}
TEN = "net.dst.ip in {10.0.0.0/8}"


def test_the_lowest_precedence_that_matches_decides() -> None:
    """Decision 29, in whatever order the policies are given."""
    policies = [
        written("pol_third", TEN, precedence=30),
        written("pol_first", "net.dst.ip in {192.0.2.0/24}", precedence=10),
        written("pol_second", "net.dst.port == 443", precedence=20),
    ]
    for order in (policies, policies[::-1]):
        assert matched(order, WIKI) == ["pol_second"]
        assert matched(order, {"net.dst.ip": "192.0.2.1", "net.dst.port": 443}) == ["pol_first"]
        assert matched(order, {"net.dst.ip": "10.0.0.1", "net.dst.port": 22}) == ["pol_third"]
        assert matched(order, {"net.dst.ip": "198.51.100.1", "net.dst.port": 22}) == []


def test_of_equal_precedence_the_lower_id_decides() -> None:
    """Two replicas answer alike, whatever they learned first."""
    policies = [written("pol_b"), written("pol_a"), written("pol_c")]
    assert matched(policies) == matched(policies[::-1]) == ["pol_a"]


NETWORK, NETWORK_BLOCK = written("pol_network"), written("pol_network", action=BLOCK)
REQUESTS = written("pol_http", filter_=HTTP)


@pytest.mark.parametrize(
    ("network", "http", "decide"),
    [
        (NETWORK, REQUESTS, ["pol_network", "pol_http"]),
        (NETWORK_BLOCK, REQUESTS, ["pol_network"]),
        (NETWORK, written("pol_http", filter_=HTTP, action=BLOCK), ["pol_network", "pol_http"]),
        (written("pol_network", enabled=False), REQUESTS, ["pol_http"]),
        (NETWORK, written("pol_http", filter_=HTTP, enabled=False), ["pol_network"]),
        (written("pol_network", "net.dst.port == 22"), REQUESTS, ["pol_http"]),
        (NETWORK, written("pol_http", 'http.request.host == "x"', filter_=HTTP), ["pol_network"]),
        (written("pol_network", precedence=9_000), REQUESTS, ["pol_network", "pol_http"]),
    ],
)
def test_a_request_is_network_traffic_first(network: GatewayPolicy, http: GatewayPolicy, decide: list[str]) -> None:
    """Decision 29: a network policy that allows leaves the request to the HTTP policies, one that blocks ends it."""
    assert matched([http, network], WIKI, filters=REQUEST) == decide


def test_each_kind_of_traffic_meets_its_own_policies() -> None:
    """Decision 29: a policy without conditions covers its own kind only, and DNS queries meet no network policy."""
    policies = [written(f"pol_{filter_.name}", filter_=filter_) for filter_ in (DNS, HTTP, L4)]
    assert matched(policies, filters=CONNECTION) == ["pol_L4"]
    assert matched(policies, filters=REQUEST) == ["pol_L4", "pol_HTTP"]
    assert matched(policies, filters=QUERY) == ["pol_DNS"]
    assert matched([], filters=REQUEST) == []


@pytest.mark.parametrize(
    ("without", "decides"),
    [("", True), ("traffic", False), ("identity", False), ("posture", False)],
)
def test_all_three_expressions_must_hold(without: str, decides: bool) -> None:
    """Decision 29."""
    policy = written(
        "pol_1",
        TEN,
        identity='any(identity.groups.name[*] == "staff")',
        device_posture='any(device_posture.checks.passed[*] == "disk")',
    )
    given: dict[str, Any] = {
        "traffic": WIKI,
        "identity": {"identity.groups.name": ["staff"]},
        "posture": {"device_posture.checks.passed": ["disk"]},
    }
    given.pop(without, None)
    assert matched([policy], **given) == (["pol_1"] if decides else [])


def test_a_disabled_policy_matches_nothing_and_is_not_even_read() -> None:
    policies = [written("pol_off", "no expression", precedence=1, enabled=False), written("pol_on", precedence=2)]
    assert matched(policies) == ["pol_on"]


@pytest.mark.parametrize(
    ("traffic", "values", "decides"),
    [
        ("net.dst.port == 443", {}, False),
        ("net.dst.port != 443", {}, True),
        ("net.dst.port != 443", {"net.dst.port": 443}, False),
        ("not(net.dst.ip in $wiki)", {}, True),
        ("not(net.dst.ip in $wiki)", {"net.dst.ip": "10.1.0.1"}, False),
        ('net.sni.host != "a.example"', {}, True),
        ('net.sni.host != "a.example"', {"net.sni.host": "A.example."}, False),
        ('any(net.sni.domains[*] != "example")', {}, False),
        ('any(net.sni.domains[*] != "example")', {"net.sni.host": "a.example"}, True),
        ('not(net.sni.host matches "x$") and net.sni.host != "y"', {}, True),
        ("access.private_app != true", {}, True),
        ("access.private_app == false", {}, False),
        ("app.ids != 1", {"app.ids": []}, True),
        ("any(app.ids[*] > 1)", {"app.ids": []}, False),
    ],
)
def test_a_missing_field_fails_but_for_a_negation(traffic: str, values: dict[str, object], decides: bool) -> None:
    """Decision 30a, also where an index answers."""
    lists = {"wiki": NamedList.of(Type.ADDRESS, ["10.1.0.0/16"])}
    assert bool(matched([written("pol_1", traffic)], values, lists=lists)) is decides


@pytest.mark.parametrize("text", ["", "a", "xa", "b", "a\nb", "xyz", "K", "\u212a", "s\u017f", "jane@example.com"])
def test_patterns_are_found_together_as_each_is_found_alone(text: str) -> None:
    """Decision 30a, for what an index does to patterns: several at once, and without a leading `.*`."""
    patterns = ["", ".*", ".*?", ".*?a", ".*a|b", "^.*b", ".*^a", ".*$", ".*.*z", "k", "^s+$", ".*@example.com", r"\.*"]
    policies = [written(f"pol_{pattern}", f'proxy.endpoint matches "{pattern}"') for pattern in patterns]
    traffic = read_traffic({"proxy.endpoint": text})
    together = PolicySet.compile(policies)
    who = together.identity_mask({}) & together.posture_mask({})
    for policy in policies:
        alone = compile_expression(parse_expression(policy.traffic, Scope.L4_TRAFFIC))(traffic)
        mine = 1 << sorted(it.policy.policy_id for it in policies).index(policy.policy.policy_id)
        assert (together.first_match(L4, traffic, who & mine) is not None) is alone, policy.traffic


def test_every_one_of_many_patterns_is_found() -> None:
    """More than are searched for together."""
    policies = [written(f"pol_{place}", f'net.sni.host matches "^site{place}\\.example$"') for place in range(600)]
    compiled = PolicySet.compile(policies)
    who = compiled.identity_mask({}) & compiled.posture_mask({})
    for place in range(600):
        policy = compiled.first_match(L4, read_traffic({"net.sni.host": f"site{place}.example"}), who)
        assert policy is not None
        assert policy.policy_id == f"pol_{place}"
    assert compiled.first_match(L4, read_traffic({"net.sni.host": "site600.example"}), who) is None


@pytest.mark.parametrize(
    "identity",
    [
        'identity.email == "jane.doe@example.com"',
        'identity.email in {"x@example.com" "jane.doe@example.com"}',
        "identity.email in $people",
        'identity.email matches "^janedoe@"',
        'identity.email == "jane.doe@example.com" or identity.name == "nobody"',
    ],
)
def test_whoever_is_blocked_cannot_change_the_address(identity: str) -> None:
    """Extended e-mail matching of the public documentation: for policies that block, and no others."""
    lists = {"people": NamedList.of(Type.EMAIL, ["jane.doe@example.com"])}
    variant = {"identity.email": "Jane.Doe+news@example.com"}
    policies = [written("pol_allow", identity=identity), written("pol_block", identity=identity, action=BLOCK)]
    assert matched(policies, identity=variant, lists=lists) == ["pol_block"]
    assert matched(policies, identity={"identity.email": "jane@example.com"}, lists=lists) == []


@pytest.mark.parametrize(
    "identity",
    [
        'identity.email != "jane.doe@example.com"',
        'not identity.email in {"x@example.com" "jane.doe@example.com"}',
        "not identity.email in $people",
        'not(identity.email matches "^jane[.]doe@")',
        'not(identity.email == "jane.doe@example.com" or identity.name == "nobody")',
        'identity.email != "jane.doe@example.com" and not not identity.email == "janedoe+news@example.com"',
    ],
)
def test_whoever_is_spared_is_nobody_else(identity: str) -> None:
    """The same matching: a policy that blocks all but one person spares no variant of that person's address."""
    lists = {"people": NamedList.of(Type.EMAIL, ["jane.doe@example.com"])}
    policies = [written("pol_block", identity=identity, action=BLOCK)]
    assert matched(policies, identity={"identity.email": "Jane.Doe@example.com"}, lists=lists) == []
    for variant in ("jane.doe+news@example.com", "janedoe@example.com"):
        assert matched(policies, identity={"identity.email": variant}, lists=lists) == ["pol_block"]


def test_whoever_is_blocked_by_a_pattern_is_so_with_and_without_the_extension() -> None:
    policies = [
        written("pol_news", identity='identity.email matches "[+]news@"', action=BLOCK, precedence=1),
        written("pol_jane", identity='identity.email matches "^jane@"', action=BLOCK, precedence=2),
    ]
    assert matched(policies, identity={"identity.email": "jane+news@example.com"}) == ["pol_news"]
    assert matched(policies, identity={"identity.email": "jane+x@example.com"}) == ["pol_jane"]
    assert matched(policies, identity={"identity.email": "joe+x@example.com"}) == []


@pytest.mark.parametrize(
    ("pattern", "address", "holds"),
    [("[+]x@b", "a+x@b", True), ("^a@b", "a+x@b", True), ("^ac@b", "a.c@b", True), ("^a@b", "c+a@b", False)],
)
def test_a_pattern_of_a_policy_that_blocks_is_found_in_either_form(pattern: str, address: str, holds: bool) -> None:
    """Beside a policy that asks for the form without the extension, with which it shares a lookup."""
    policies = [
        written("pol_pattern", identity=f'identity.email matches "{pattern}"', action=BLOCK, precedence=1),
        written("pol_other", identity='identity.email == "other+x@b"', action=BLOCK, precedence=2),
    ]
    assert matched(policies, identity={"identity.email": address}) == (["pol_pattern"] if holds else [])
    assert matched(policies, identity={"identity.email": "oth.er@b"}) == ["pol_other"]


def test_an_edit_is_a_new_set_that_obeys_it() -> None:
    """Whatever the set before it has in common is not read again, and none of its answers remain."""
    host = read_traffic({"http.request.host": "wiki.example.com"})
    lists = {"hosts": NamedList.of(Type.HOST, ["files.example.com"])}
    policy = written("pol_1", 'http.request.host matches "^wiki" or http.request.host in $hosts', filter_=HTTP)
    before = PolicySet.compile([policy], lists)

    def decides(policies: list[GatewayPolicy], lists: dict[str, NamedList], previous: PolicySet = before) -> bool:
        after = PolicySet.compile(policies, lists, previous=previous)
        return after.first_match(HTTP, host, after.identity_mask({}) & after.posture_mask({})) is not None

    assert decides([policy], lists)
    assert not decides([], lists)
    assert not decides([written("pol_1", 'http.request.host matches "^files"', filter_=HTTP)], lists)
    in_list = [written("pol_1", "http.request.host in $hosts", filter_=HTTP)]
    assert not decides(in_list, lists)
    wiki = {"hosts": NamedList.of(Type.HOST, ["wiki.example.com"])}
    assert decides(in_list, wiki)
    assert decides(in_list, wiki, PolicySet.compile(in_list, lists))
    with pytest.raises(PolicyInvalid, match="there is no list"):
        decides([policy], {})
    assert before.first_match(HTTP, host, before.identity_mask({}) & before.posture_mask({})) == policy.policy


@pytest.mark.parametrize(
    ("attribute", "text", "column"),
    [
        ("traffic", "net.dst.port = 443", 14),
        ("traffic", "net.dst.port == 443 and net.dst.ip in $hosts", 25),
        ("traffic", "net.dst.ip in $nowhere", 1),
        ("traffic", 'http.request.host == "x"', 1),
        ("identity", 'identity.mail == "x"', 1),
        ("device_posture", "device_posture.checks.passed in $ports", 1),
    ],
)
def test_what_is_wrong_names_policy_expression_and_column(attribute: str, text: str, column: int) -> None:
    lists = {"hosts": NamedList.of(Type.HOST, ["x"]), "ports": NamedList.of(Type.INTEGER, ["1"])}
    bad: dict[str, Any] = {attribute: text}
    policies = [written("pol_good", TEN), written("pol_bad", **bad)]
    with pytest.raises(PolicyInvalid) as caught:
        PolicySet.compile(policies, lists)
    assert (caught.value.policy_id, caught.value.expression) == ("pol_bad", attribute)
    assert caught.value.refusal.column == column


def test_the_trace_says_of_every_policy_why_it_did_not_match() -> None:
    """Decision 30a: with the fields that were missing."""
    people = 'identity.email == "jane@example.com"'
    policies = [
        written("pol_off", "no expression", precedence=1, enabled=False),
        written("pol_host", f'{TEN} and net.sni.host == "wiki"', precedence=3, identity=people),
        written("pol_not", 'net.sni.host != "x"', precedence=4, device_posture="device_posture.checks.passed in $a"),
        written("pol_ten", TEN, precedence=5),
        written("pol_all", precedence=6),
        written("pol_http", filter_=HTTP, action=BLOCK, precedence=1, identity=people),
        written("pol_more", filter_=HTTP, precedence=2),
        written("pol_dns", filter_=DNS),
    ]
    compiled = PolicySet.compile(policies, {"a": NamedList.of(Type.TEXT, ["x"])})
    identity = read_traffic({"identity.email": "jane+news@example.com"})
    steps = list(compiled.trace(REQUEST, read_traffic(WIKI), identity, {}, 0))
    assert [(step.policy.policy_id, step.matched, step.decides, step.failed, step.missing) for step in steps] == [
        ("pol_off", False, False, ("enabled",), ()),
        ("pol_host", False, False, ("traffic", "identity"), ("net.sni.host",)),
        ("pol_not", False, False, ("device_posture",), ("net.sni.host", "device_posture.checks.passed")),
        ("pol_ten", True, True, (), ()),
        ("pol_all", True, False, (), ()),
        ("pol_http", True, True, (), ()),
        ("pol_more", True, False, (), ()),
    ]


def test_a_set_keeps_the_lists_that_it_was_compiled_with() -> None:
    lists = {"wiki": NamedList.of(Type.ADDRESS, ["10.1.0.0/16"])}
    compiled = PolicySet.compile([written("pol_wiki", "net.dst.ip in $wiki")], lists)
    lists.clear()
    (step,) = compiled.trace(CONNECTION, read_traffic(WIKI), {}, {}, 0)
    assert step.decides


def test_behind_a_policy_that_blocks_the_trace_goes_on_but_nothing_decides() -> None:
    policies = [written("pol_block", action=BLOCK), written("pol_http", filter_=HTTP)]
    first, second = PolicySet.compile(policies).trace((PolicyFilter.L4, PolicyFilter.HTTP), {}, {}, {}, 0)
    assert first == Step(policies[0].policy, True, True, (), ())
    assert second == Step(policies[1].policy, True, False, (), ())
