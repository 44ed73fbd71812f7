"""Policies and lists as people write them, as many as are wanted, and traffic for them."""

import random
from collections.abc import Iterator

from guardhouse.session.v1 import session_pb2 as pb

VALUES = 5000
GROUPS = 100
# Each is of one kind; of those with the same filter none covers what another does.
L4 = (
    "net.dst.ip in {{10.{a}.{b}.0/24}} and net.dst.port in {{443 8443}}",
    'net.dst.ip in {{10.{a}.0.0/16}} and not(net.dst.ip in {{10.{a}.{b}.0/24}}) and net.protocol == "udp"',
    "net.dst.port == {port} and net.dst.ip in $networks",
    'net.sni.host matches "^site{place}\\.example$"',
)
HTTP = (
    'http.request.host == "site{place}.example" or http.request.host matches "^{place}\\.site\\."',
    'any(http.request.domains[*] == "site{place}.example") and http.request.uri.path matches "^/{place}/"',
    'http.request.host in $hosts and http.request.method in {{"PUT" "PATCH"}} and http.request.uri.path == "/{place}"',
)
WHO = (
    "",
    "",
    "",
    'any(identity.groups.name[*] == "group{group}")',
    'identity.email matches "@partner{group}\\.example$"',
)


def lists() -> list[pb.List]:
    """A list of networks and one of hosts, both as long as they may be."""
    networks = [f"10.{place >> 8}.{place & 255}.0/25" for place in range(VALUES)]
    hosts = [f"host{place}.example" for place in range(VALUES)]
    return [
        pb.List(name="networks", type=pb.LIST_TYPE_IP, values=networks),
        pb.List(name="hosts", type=pb.LIST_TYPE_HOST, values=hosts),
    ]


def policies(count: int) -> Iterator[pb.Policy]:
    """Half network and half HTTP policies. The last of each covers everything and limits sessions."""
    for place in range(count):
        filter_, wheres = ((pb.POLICY_FILTER_L4, L4), (pb.POLICY_FILTER_HTTP, HTTP))[place % 2]
        kind = place // 2
        names = {"place": place, "a": kind % 200, "b": kind // 200, "port": 1024 + place, "group": place % GROUPS}
        policy = pb.Policy(
            display_name=f"policy {place}",
            enabled=True,
            filter=filter_,
            action=pb.POLICY_ACTION_ALLOW if kind % 3 else pb.POLICY_ACTION_BLOCK,
            precedence=place + 1,
            traffic=wheres[kind % len(wheres)].format(**names),
            identity=WHO[kind % len(WHO)].format(**names),
        )
        if place >= count - 2:
            policy.traffic = policy.identity = ""
            policy.action = pb.POLICY_ACTION_ALLOW
            policy.check_session.enforce = True
            policy.check_session.duration = "720h"
        yield policy


def fields(dice: random.Random) -> dict[str, str]:
    """An HTTP request, as a proxy knows it."""
    host = f"www{dice.randrange(5000)}.example.org"
    return {
        "net.dst.ip": f"192.0.2.{dice.randrange(256)}",
        "net.dst.port": "443",
        "net.protocol": "tcp",
        "net.sni.host": host,
        "http.request.host": host,
        "http.request.uri.path": f"/{dice.randrange(1000)}/index.html",
        "http.request.method": "GET",
    }
