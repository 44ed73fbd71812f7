"""An expression that is refused: where, why, and what to write instead."""

import pytest

from guardhouse.expressions import Scope
from tests.guardhouse.expressions.asking import refusal

L4, HTTP, DNS = Scope.L4_TRAFFIC, Scope.HTTP_TRAFFIC, Scope.DNS_TRAFFIC
IDENTITY, POSTURE = Scope.IDENTITY, Scope.DEVICE_POSTURE
PROFILE, IP_PROFILE = Scope.DEVICE_PROFILE, Scope.IP_PROFILE


@pytest.mark.parametrize(
    ("scope", "text", "column", "words"),
    [
        # Fields.
        (L4, "net.dst.prt == 1", 1, "did you mean net.dst.port?"),
        (L4, "net.dst.port == 1 and net.dst.pp == 1", 23, "did you mean net.dst.ip?"),
        (L4, "foo == 1", 1, "names begin with access, app, net, proxy"),
        (PROFILE, 'os.nam == "x"', 1, "did you mean os.name?"),
        (
            HTTP,
            "net.dst.ip == 10.0.0.1",
            1,
            "belongs in the traffic of a network policy, not in the traffic of an HTTP policy",
        ),
        (L4, 'http.request.host == "x"', 1, "belongs in the traffic of an HTTP policy"),
        (L4, '  identity.email == "x"', 3, "belongs in the identity of a policy"),
        (IDENTITY, 'any(device_posture.checks.passed[*] == "x")', 5, "belongs in the device posture of a policy"),
        (IP_PROFILE, 'os.name == "windows"', 1, "belongs in the match of a device profile"),
        (IDENTITY, 'network == "x"', 1, "belongs in the match of a device profile"),
        (DNS, 'dns.indicator_feed == "x"', 1, "there is no field dns.indicator_feed"),
        (IDENTITY, 'identity[*].groups.name == "x"', 1, "write identity.groups.name[*]"),
        # Several values and one.
        (L4, "app.ids[*] == 1", 1, "write any(app.ids[*] ...)"),
        (L4, "any(app.ids == 1)", 5, "write app.ids[*]"),
        (L4, "any(net.dst.port == 1)", 5, "leave any() out"),
        (L4, "net.dst.port[*] == 1", 1, "write net.dst.port for net.dst.port[*]"),
        (L4, 'net.vnet_id["x"] == "y"', 13, 'leave ["x"] out'),
        (IDENTITY, 'any(identity.groups.name[*] == "a" or identity.groups.name[*] == "b")', 36, "a closing )"),
        # Operators.
        (L4, 'net.dst.ip matches "10.*"', 12, "compared with == != in, not with matches"),
        (L4, "net.dst.ip >= 10.0.0.1", 12, "compared with == != in, not with >="),
        (L4, 'net.protocol > "tcp"', 14, "compared with == != in matches, not with >"),
        (L4, "access.target in {true}", 15, "compared with == !=, not with in"),
        (L4, "access.target in $x", 15, "not with in"),
        (L4, 'net.dst.port matches "4"', 14, "not with matches"),
        (L4, "net.dst.port", 1, "is no condition by itself"),
        (L4, "net.dst.port == 1 or net.dst.ip", 22, "is no condition by itself"),
        (L4, "net.dst.port = 1", 14, "write =="),
        (L4, "net.dst.port eq 1", 14, "write =="),
        (L4, "net.dst.port is 1", 14, "write =="),
        (L4, "net.dst.port ne 1", 14, "write !="),
        (L4, 'net.sni.host contains "x"', 14, "write matches"),
        (L4, 'net.sni.host ~ "x"', 14, "write matches"),
        (L4, 'net.protocol not in {"x"}', 14, "write not(field in {...})"),
        (L4, "net.dst.port == 1 AND net.dst.port == 2", 19, "write and"),
        (L4, "net.dst.port == 1 & net.dst.port == 2", 19, "write and"),
        (L4, "net.dst.port == 1 xor net.dst.port == 2", 19, "and, or, or the end"),
        # Values.
        (L4, 'net.dst.port == "443"', 17, "write 443 without quotes"),
        (L4, 'net.dst.ip in {10.0.0.1 "10.0.0.2"}', 25, "write 10.0.0.2 without quotes"),
        (L4, "net.protocol == tcp", 17, 'write "tcp"'),
        (L4, "net.protocol == 'tcp'", 17, "text stands in double quotes"),
        (L4, "net.dst.port == 65536", 17, "the most is 65535"),
        (L4, "net.dst.port in {1..65536}", 18, "the most is 65535"),
        (L4, "net.dst.port == 0443", 17, "write digits"),
        (L4, "net.dst.port == 0x1bb", 17, "write digits"),
        (L4, "net.dst.port == -1", 17, "a value"),
        (L4, "net.dst.port == \u0663", 17, "a value"),
        (L4, "any(app.ids[*] == 99999999999999999999)", 19, "write digits"),
        (L4, "net.dst.port in {9..1}", 18, "runs backwards"),
        (L4, "net.dst.port == 1..9", 17, "write net.dst.port in {1..9}"),
        (L4, "net.dst.ip == 10.0.0.0/8", 15, "write net.dst.ip in {10.0.0.0/8}"),
        (L4, "net.dst.ip == 10.0.0.256", 15, "10.0.0.256 is no IP address"),
        (L4, "net.dst.ip == 10.0.0.01", 15, "is no IP address"),
        (L4, "net.dst.ip in {10.0.0.1/8}", 16, "write 10.0.0.0/8 or 10.0.0.1"),
        (L4, "net.dst.ip in {10.0.0.0/33}", 16, "from 0 to 32"),
        (L4, "net.dst.ip in {10.0.0.0/255.0.0.0}", 16, "from 0 to 32"),
        (L4, "net.dst.ip in {2001:db8::/129}", 16, "from 0 to 128"),
        (L4, "net.dst.ip in {10.0.0.1..::1}", 16, "half IPv4 and half IPv6"),
        (L4, "net.dst.ip in {10.0.0.9..10.0.0.1}", 16, "runs backwards"),
        (L4, 'access.target == "true"', 18, "without quotes"),
        (L4, "access.target == yes", 18, "true or false"),
        (L4, 'net.protocol == "a\\n"', 19, "for a backslash write"),
        # Patterns.
        (L4, 'net.sni.host matches "("', 22, "the pattern is not RE2: missing )"),
        (L4, 'net.sni.host matches "(?=x)"', 22, "RE2 has no look-around"),
        (L4, 'net.sni.host matches "(a)\\1"', 22, "RE2 has no back-references"),
        (L4, 'net.sni.host matches "x{1001}"', 22, "not RE2"),
        (L4, "net.sni.host matches $list", 22, "text in double quotes"),
        # Sets and lists.
        (L4, "net.dst.port in {80,443}", 20, "values are separated by spaces"),
        (L4, "net.dst.port in {}", 18, "a value"),
        (L4, "net.dst.port in {80", 20, "the expression ends, but a value or } is missing"),
        (L4, "net.dst.port in 80", 17, "a set such as {80 443} or a list such as $offices"),
        (L4, "net.dst.port in $", 17, "a list's name"),
        (L4, "net.dst.port {80}", 14, "a set stands behind in"),
        # Structure.
        (L4, "(net.dst.port == 1", 19, "a closing ) is missing"),
        (L4, "net.dst.port == 1)", 18, "and, or, or the end"),
        (L4, "net.dst.port == 1 and", 22, "a condition such as net.dst.port == 443 is missing"),
        (L4, "and net.dst.port == 1", 1, "a condition such as"),
        (L4, "not and net.dst.port == 1", 5, "a condition such as"),
        (L4, "any net.dst.port == 1", 1, "write any(field[*] ...)"),
        (L4, "net.dst.port == 1 net.dst.port == 2", 19, "and, or, or the end"),
        (L4, "(net.dst.port == 1 net", 20, "and, or, or )"),
        (L4, "net.dst.port ==   ", 16, "a value"),
        (L4, 'net.protocol == "tcp', 17, "no closing double quote"),
        (IDENTITY, 'identity.saml_attributes["x == "y"', 33, "a closing ]"),
        (L4, "any(", 5, "a field such as app.ids[*] is missing"),
        (L4, "()", 2, "a condition such as"),
        (L4, "net.dst.port == 1 andnet.dst.port == 2", 19, "and, or, or the end"),
        (L4, "net.dst.port == 1 or2", 19, "and, or, or the end"),
        (L4, "notnet.dst.port == 1", 1, "there is no field notnet.dst.port: did you mean net.dst.port?"),
        (L4, "net.dst.port in$x or net.dst.port inx", 35, "an operator"),
        (L4, 'net.protocol matches_ "x"', 14, "an operator"),
        (L4, "\u00a0", 1, "a condition such as"),
        (L4, "net.dst.port == 1\x00", 18, "and, or, or the end"),
        (L4, 'net.protocol == "\ud800"', 18, "surrogate"),
        (L4, "net.dst.port\n==\n\nx", 18, "write digits"),
    ],
)
def test_a_refusal_names_the_column_and_the_way_out(scope: Scope, text: str, column: int, words: str) -> None:
    refused = refusal(text, scope)
    assert words in refused.message
    assert refused.column == column
    assert str(refused) == f"column {column}: {refused.message}"
