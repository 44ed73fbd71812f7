"""Cost must not grow with the number of policies that cannot match."""

import gc
import sys
from collections.abc import Callable

from guardhouse.expressions import NamedList, Traffic, Type, read_traffic
from guardhouse.policies import REQUEST, GatewayPolicy, PolicySet, Schedule
from tests.guardhouse.policies.writing import BLOCK, DNS, HTTP, L4, written

LISTS = {
    "networks": NamedList.of(Type.ADDRESS, (f"10.{place >> 8}.{place & 255}.0/25" for place in range(5_000))),
    "hosts": NamedList.of(Type.HOST, (f"host{place}.example" for place in range(5_000))),
}
WHERE = [
    "net.dst.ip in {{10.{a}.{b}.0/24}} and net.dst.port in {{443 8443}}",
    'net.dst.ip in {{10.{a}.0.0/16}} and not(net.dst.ip in {{10.{a}.{b}.0/24}}) and net.protocol == "tcp"',
    "net.dst.port >= {port} and net.dst.port <= {port} and net.dst.ip in $networks",
    'net.sni.host matches "^site{place}\\.example$"',
    'http.request.host == "site{place}.example" or http.request.host matches "^{place}\\.site\\."',
    'any(http.request.domains[*] == "site{place}.example") and http.request.uri.path matches "^/{place}/"',
    'http.request.host in $hosts and not(http.request.host == "x") and http.request.method in {{"PUT" "TRACE"}}',
]
WHO = ["", "", "", 'any(identity.groups.name[*] == "group{group}")']


def policies(count: int) -> list[GatewayPolicy]:
    """Policies as people write them. The last of each filter covers everything."""
    result = []
    for place in range(count - 2):
        names = {"place": place, "a": place % 200, "b": place // 200, "port": place + 1, "group": place % 100}
        where = WHERE[place % len(WHERE)].format(**names)
        filter_ = HTTP if where.startswith(("http", "any(http")) else L4
        who = WHO[place % len(WHO)].format(**names)
        result.append(written(f"pol_{place:04}", where, filter_=filter_, precedence=place, identity=who))
    return [
        *result,
        written("pol_rest", precedence=count),
        written("pol_rest_http", filter_=HTTP, action=BLOCK, precedence=count),
    ]


def request(place: int) -> Traffic:
    return read_traffic(
        {
            "net.dst.ip": f"192.0.2.{place % 250}",
            "net.dst.port": 60_000,
            "net.protocol": "tcp",
            "http.request.host": f"www{place}.example.org",
            "http.request.uri.path": f"/{place}",
            "http.request.method": "GET",
        }
    )


def calls(action: Callable[[], object]) -> int:
    """How many functions are called."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    # What the collector calls is what others have left to it.
    gc.disable()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_a_match_costs_the_same_among_many_policies() -> None:
    """Counted, not timed: as many calls for 1,000 policies as for the same mixture of 16."""

    def cost(count: int) -> tuple[int, int, int]:
        compiled = PolicySet.compile(policies(count), LISTS)
        person = read_traffic({"identity.groups.name": ["group7"]})
        who = compiled.identity_mask(person) & compiled.posture_mask({})
        assert [it.policy_id for it in compiled.match(REQUEST, request(1), who)] == ["pol_rest", "pol_rest_http"]
        return (
            calls(lambda: compiled.match(REQUEST, request(1), who)),
            calls(lambda: compiled.match(REQUEST, request(2), who)),
            calls(lambda: compiled.identity_mask(person)),
        )

    few, many = cost(16), cost(1_000)
    for cheap, dear in zip(few, many, strict=True):
        assert dear <= cheap * 1.1 + 2, (few, many)


def test_an_edit_costs_what_it_changes() -> None:
    """Timeouts and names are not in the index, and one expression is in few of its rows."""
    before = PolicySet.compile(policies(200), LISTS)
    one = [*policies(200)[1:], written("pol_0000", "net.dst.port == 22", precedence=0)]

    def cost(policies: list[GatewayPolicy], previous: PolicySet | None) -> int:
        return calls(lambda: PolicySet.compile(policies, LISTS, previous=previous))

    anew = cost(policies(200), None)
    assert cost(policies(200), before) < anew / 4
    assert cost(one, before) < anew / 2


def test_what_is_in_force_is_found_anew_only_when_it_may_have_changed() -> None:
    """And policies without a schedule or an expiry cost nothing."""
    day = 24 * 3_600 * 1_000_000
    hours = Schedule.read("UTC", *["08:00-17:00"] * 7)
    dns = [written("pol_office", filter_=DNS, schedule=hours), written("pol_short", filter_=DNS, expire_time=3 * day)]
    compiled = PolicySet.compile([*policies(50), *dns], LISTS)
    few = PolicySet.compile(dns)
    anew = calls(lambda: few.time_mask(0))
    assert calls(lambda: compiled.time_mask(0)) == anew
    assert calls(lambda: compiled.time_mask(8 * day // 24 - 1)) * 4 < anew
    assert calls(lambda: compiled.time_mask(8 * day // 24)) * 2 > anew
