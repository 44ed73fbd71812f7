"""What an expression means: precedence, missing fields, case, addresses, several values, lists, extended addresses."""

import pytest

from guardhouse.expressions import (
    FIELDS,
    OTHER_NAMES,
    And,
    ExpressionInvalid,
    InList,
    ListInvalid,
    Matches,
    NamedList,
    Not,
    OneOf,
    Or,
    Scope,
    TrafficInvalid,
    Type,
    Within,
    advise,
    compile_expression,
    conditions,
    parse_expression,
    plain_email,
    read_traffic,
)
from tests.guardhouse.expressions.asking import holds

HTTP, IDENTITY = Scope.HTTP_TRAFFIC, Scope.IDENTITY


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("{a} or {b} and {c}", "{a} or ({b} and {c})"),
        ("{a} and {b} or {c}", "({a} and {b}) or {c}"),
        ("not {a} and {b}", "(not {a}) and {b}"),
        ("not {a} or {b}", "(not {a}) or {b}"),
        ("not not {a}", "not(not({a}))"),
        ("{a} && !{b} || {c}", "{a} and not {b} or {c}"),
        ("!{a}&&{b}", "not {a} and {b}"),
        ("((({a})))", "{a}"),
        ("{a} and {b} and {c}", "{a}\tand\r\n{b}\nand {c}"),
        ("not({a})and({b})or({c})", "(not {a} and {b}) or {c}"),
    ],
)
def test_not_binds_before_and_before_or(text: str, same: str) -> None:
    """A `not` covers the whole comparison behind it."""
    names = {"a": "net.dst.port == 1", "b": 'net.protocol == "tcp"', "c": "net.dst.ip == 10.0.0.1"}

    def root(template: str) -> object:
        return parse_expression(template.format(**names), Scope.L4_TRAFFIC).root

    assert root(text) == root(same)


def test_other_groupings_are_other_expressions() -> None:
    a, b, c = "net.dst.port == 1", "net.dst.port == 2", "net.dst.port == 3"
    first = parse_expression(f"({a} or {b}) and {c}", Scope.L4_TRAFFIC).root
    second = parse_expression(f"{a} or {b} and {c}", Scope.L4_TRAFFIC).root
    assert isinstance(first, And)
    assert isinstance(second, Or)
    assert isinstance(parse_expression(f"not ({a} or {b})", Scope.L4_TRAFFIC).root, Not)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("net.dst.port == 443", False),
        ("net.dst.port != 443", True),
        ("not(net.dst.port == 443)", True),
        ("net.dst.port in {443}", False),
        ("net.dst.port >= 0", False),
        ("net.dst.port < 65535", False),
        ("not(net.dst.port < 65535)", True),
        ("net.dst.ip in {0.0.0.0/0 ::/0}", False),
        ("net.dst.ip != 10.0.0.1", True),
        ('net.protocol matches ".*"', False),
        ('not(net.protocol matches ".*")', True),
        ('net.protocol == ""', False),
        ("net.dst.ip in $all", False),
        ("access.target", False),
        ("access.target == false", False),
        ("access.target != true", True),
        ("any(app.ids[*] == 1)", False),
        ("any(app.ids[*] != 1)", False),
        ("app.ids != 1", True),
        ('any(net.sni.domains[*] != "example.com")', False),
        ('any(net.sni.domains[*] matches "")', False),
    ],
)
def test_a_missing_field_is_false_but_for_its_negation(text: str, answer: bool) -> None:
    """Decision 30a: a missing field makes a comparison false and `!=` true; `not` turns an answer around, as always."""
    everything = {"all": NamedList.of(Type.ADDRESS, ["0.0.0.0/0", "::/0"])}
    assert holds(text, lists=everything) is answer


@pytest.mark.parametrize(
    ("text", "values", "answer"),
    [
        ("any(app.ids[*] != 1)", [1, 2], True),
        ("any(app.ids[*] != 1)", [1], False),
        ("app.ids != 1", [1, 2], False),
        ("app.ids != 1", [2], True),
        ("app.ids in {5..7}", [1, 6], True),
        ("any(app.ids[*] > 7)", [1, 6], False),
        ("any(app.ids[*] > 5)", [1, 6], True),
    ],
)
def test_several_values_fit_if_one_does(text: str, values: list[int], answer: bool) -> None:
    assert holds(text, fields={"app.ids": values}) is answer


def test_a_key_selects_among_several_values() -> None:
    attributes = {"identity.saml_attributes": {"group": ["finance", "x=y"], "title": "finance"}}
    assert holds('identity.saml_attributes["group"] == "x=y"', IDENTITY, fields=attributes)
    assert holds('identity.saml_attributes["group"] matches "^fin"', IDENTITY, fields=attributes)
    assert not holds('identity.saml_attributes["group"] matches "^group"', IDENTITY, fields=attributes)
    assert not holds('identity.saml_attributes["dept"] matches ""', IDENTITY, fields=attributes)
    assert holds('any(identity.saml_attributes["group"] != "finance")', IDENTITY, fields=attributes)
    assert not holds('any(identity.saml_attributes["title"] != "finance")', IDENTITY, fields=attributes)
    assert not holds('identity.saml_attributes["title"] != "finance"', IDENTITY, fields=attributes)
    assert holds('any(identity.saml_attributes[*] == "group=x=y")', IDENTITY, fields=attributes)
    named = {"titles": NamedList.of(Type.TEXT, ["finance"])}
    assert holds('identity.saml_attributes["title"] in $titles', IDENTITY, named, fields=attributes)


def test_letters_of_either_case_are_equal_where_the_field_says_so() -> None:
    """As when somebody enrolls: in e-mail addresses, and only letters of ASCII; groups are compared to the letter."""
    assert holds('identity.email == "Jane@Example.com"', IDENTITY, identity_email="jANE@example.COM")
    assert holds('identity.email matches "^JANE@"', IDENTITY, identity_email="jane@example.com")
    assert not holds('identity.groups.name == "admins"', IDENTITY, fields={"identity.groups.name": ["Admins"]})
    assert not holds('identity.groups.name matches "admins"', IDENTITY, fields={"identity.groups.name": ["Admins"]})
    assert not holds('http.request.method == "GET"', HTTP, http_request_method="get")
    assert holds('http.request.host == "www.Example.com."', HTTP, http_request_host="WWW.example.com")


@pytest.mark.parametrize("alike", ["\u212aate@example.com", "kate@example.com\u017f"])
@pytest.mark.parametrize("pattern", ["^kate", "^KATE@EXAMPLE.COMS$", "s$"])
def test_no_foreign_letter_passes_for_one_of_ascii(alike: str, pattern: str) -> None:
    """The Kelvin sign is no k and the long s no s, in patterns as in comparisons."""
    ascii_only = alike.replace("\u212a", "?").replace("\u017f", "?")
    expression = f'identity.email matches "{pattern}"'
    assert holds(expression, IDENTITY, identity_email=alike) is holds(expression, IDENTITY, identity_email=ascii_only)
    assert not holds('identity.email == "kate@example.com"', IDENTITY, identity_email=alike)
    assert holds(f'identity.email == "{alike}"', IDENTITY, identity_email=alike)


def test_ipv4_in_ipv6_is_ipv4() -> None:
    """RFC 4291, section 2.5.5.2, wherever it comes from: the traffic, an expression or a list."""
    assert holds("net.dst.ip in {10.0.0.0/8}", net_dst_ip="::ffff:10.1.2.3")
    assert holds("net.dst.ip in {::ffff:10.0.0.0/104}", net_dst_ip="10.1.2.3")
    assert holds("net.dst.ip == ::ffff:10.1.2.3", net_dst_ip="10.1.2.3")
    assert holds("net.dst.ip in $a", lists={"a": NamedList.of(Type.ADDRESS, ["::ffff:a01:203"])}, net_dst_ip="10.1.2.3")
    assert not holds("net.dst.ip in {::/0}", net_dst_ip="10.1.2.3")
    assert not holds("net.dst.ip in {0.0.0.0/0}", net_dst_ip="::a01:203")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("{10.0.0.0/8}", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("{10.0.0.5..10.0.0.9}", ["10.0.0.5", "10.0.0.9"], ["10.0.0.4", "10.0.0.10"]),
        ("{2001:db8::/32}", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7:ffff::", "2001:db9::"]),
        ("{::1..::3}", ["::1", "::3"], ["::", "::4", "0.0.0.2"]),
        ("{10.0.0.1/32 10.0.0.3}", ["10.0.0.1", "10.0.0.3"], ["10.0.0.2"]),
        ("{0.0.0.0 255.255.255.255}", ["0.0.0.0", "255.255.255.255"], ["0.0.0.1", "::", "::1"]),
        ("{10.0.0.0/9 10.128.0.0/9 10.1.0.0/16}", ["10.0.0.0", "10.127.255.255", "10.128.0.0"], ["11.0.0.0"]),
    ],
)
def test_addresses_at_the_edges(text: str, inside: list[str], outside: list[str]) -> None:
    for address in inside:
        assert holds(f"net.dst.ip in {text}", net_dst_ip=address), address
    for address in outside:
        assert not holds(f"net.dst.ip in {text}", net_dst_ip=address), address


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("net.dst.port > 65533", {65_534, 65_535}),
        ("net.dst.port >= 65535", {65_535}),
        ("net.dst.port > 65535", set()),
        ("net.dst.port < 2", {0, 1}),
        ("net.dst.port <= 1", {0, 1}),
        ("net.dst.port < 0", set()),
        ("net.dst.port in {2..4 4..6 9}", {2, 3, 4, 5, 6, 9}),
        ("net.dst.port in {5..5}", {5}),
        ("net.dst.port != 7 and net.dst.port <= 8", {0, 1, 2, 3, 4, 5, 6, 8}),
    ],
)
def test_numbers_at_the_edges(text: str, ports: set[int]) -> None:
    asked = compile_expression(parse_expression(text, Scope.L4_TRAFFIC))
    near = [*range(12), *range(65_530, 65_536)]
    assert {port for port in near if asked(read_traffic({"net.dst.port": port}))} == ports


def test_the_same_meaning_is_the_same_node() -> None:
    """Who indexes policies need not know in how many ways a condition can be written."""

    def root(text: str) -> object:
        return parse_expression(text, Scope.L4_TRAFFIC).root

    assert root("net.dst.port >= 1024") == root("net.dst.port in {2000..65535 1024..1999}")
    assert root("net.dst.ip == 10.0.0.1") == root("net.dst.ip in {10.0.0.1/32}")
    assert root('net.protocol != "tcp"') == root('not(net.protocol in {"TCP"})')
    assert root('any(net.sni.domains[*] == "a.b")') == root('net.sni.domains in {"A.B."}')
    assert root('net.detected_protocol == "ssh"') == root('net.protocol.detection == "ssh"')


def test_conditions_say_where_they_stand() -> None:
    text = '(net.dst.port >= 80 and any(app.ids[*] in {1})) or not net.dst.ip in $a and net.sni.host matches "x$"'
    expression = parse_expression(text, Scope.L4_TRAFFIC)
    found = list(conditions(expression.root))
    assert [type(condition) for condition in found] == [Within, Within, InList, Matches]
    assert [expression.excerpt(condition) for condition in found] == [
        "net.dst.port >= 80",
        "any(app.ids[*] in {1})",
        "net.dst.ip in $a",
        'net.sni.host matches "x$"',
    ]


@pytest.mark.parametrize("text", ["", " ", "\t\r\n "])
def test_an_empty_expression_is_true(text: str) -> None:
    """Decision 29."""
    assert holds(text)


def test_quotes_and_backslashes() -> None:
    assert holds(r'http.request.uri.path == "/a\"b\\c"', HTTP, fields={"http.request.uri.path": '/a"b\\c'})
    # In a pattern a backslash is the pattern's own, and only a double quote needs one.
    assert holds(r'http.request.uri.path matches "^/\"\d\\$"', HTTP, fields={"http.request.uri.path": '/"7\\'})
    assert holds('http.request.uri.path == "a\nb"', HTTP, fields={"http.request.uri.path": "a\nb"})


def test_a_word_of_the_language_ends_where_a_name_could_not_go_on() -> None:
    assert holds('net.protocol=="tcp"and(net.dst.port>=80)', net_protocol="tcp", net_dst_port=80)
    assert holds('net.protocol in{"tcp"}&&net.dst.port<81', net_protocol="tcp", net_dst_port=80)
    assert holds('net.protocol matches"^t"', net_protocol="tcp")
    with pytest.raises(ExpressionInvalid, match="there is no field android"):
        parse_expression("android == 1", Scope.L4_TRAFFIC)
    with pytest.raises(ExpressionInvalid, match=r"there is no field not\.a\.field"):
        parse_expression("not.a.field == 1", Scope.L4_TRAFFIC)


def test_lists_are_looked_up_when_an_expression_is_compiled() -> None:
    expression = parse_expression("net.dst.port == 1 or net.dst.ip in $ofices", Scope.L4_TRAFFIC)
    offices = NamedList.of(Type.ADDRESS, ["10.0.0.0/8"])
    assert compile_expression(expression, {"ofices": offices})(read_traffic({"net.dst.ip": "10.0.0.1"}))
    with pytest.raises(ExpressionInvalid, match=r"there is no list \$ofices: did you mean \$offices\?") as missing:
        compile_expression(expression, {"offices": offices})
    assert missing.value.column == 22
    with pytest.raises(ExpressionInvalid, match="make it first"):
        compile_expression(expression)


@pytest.mark.parametrize(
    ("type_", "values", "text", "fits"),
    [
        (Type.ADDRESS, ["10.0.0.1"], "net.dst.ip in $it", True),
        (Type.HOST, ["a.example"], "net.dst.ip in $it", False),
        (Type.ADDRESS, ["10.0.0.1"], "net.sni.host in $it", False),
        (Type.EMAIL, ["a@b.example"], "net.sni.host in $it", False),
        (Type.HOST, ["a.example"], "net.sni.host in $it", True),
        (Type.TEXT, ["A.example"], "net.sni.host in $it", True),
        (Type.HOST, ["a.example"], "net.vnet_id in $it", False),
        (Type.INTEGER, ["7"], "any(app.ids[*] in $it)", True),
        (Type.TEXT, ["7"], "any(app.ids[*] in $it)", False),
    ],
)
def test_a_list_holds_what_the_field_holds(type_: Type, values: list[str], text: str, fits: bool) -> None:
    named = {"it": NamedList.of(type_, values)}
    expression = parse_expression(text, Scope.L4_TRAFFIC)
    if fits:
        traffic = read_traffic({"net.dst.ip": "10.0.0.1", "net.sni.host": "a.EXAMPLE", "app.ids": [7]})
        assert compile_expression(expression, named)(traffic)
    else:
        with pytest.raises(ExpressionInvalid, match=r"but a value of \$it is"):
            compile_expression(expression, named)


def test_a_list_of_5000_serves_like_a_small_one() -> None:
    hosts = NamedList.of(Type.HOST, (f"host{number}.example" for number in range(5_000)))
    networks = NamedList.of(Type.ADDRESS, (f"10.{number >> 8}.{number & 255}.0/25" for number in range(5_000)))
    assert holds("net.sni.host in $h", lists={"h": hosts}, net_sni_host="host4999.example")
    assert not holds("net.sni.host in $h", lists={"h": hosts}, net_sni_host="host5000.example")
    assert holds("net.dst.ip in $n", lists={"n": networks}, net_dst_ip="10.19.135.127")
    assert not holds("net.dst.ip in $n", lists={"n": networks}, net_dst_ip="10.19.135.128")


def test_a_list_names_the_value_that_it_cannot_hold() -> None:
    with pytest.raises(ListInvalid, match=r"10\.0\.0\.1/8 has bits behind its length: write 10\.0\.0\.0/8") as wrong:
        NamedList.of(Type.ADDRESS, ["10.0.0.0/8", "10.0.0.1/8"])
    assert wrong.value.place == 1
    with pytest.raises(ListInvalid, match="x is no number"):
        NamedList.of(Type.INTEGER, ["x"])
    with pytest.raises(ValueError, match="no true or false"):
        NamedList.of(Type.BOOLEAN, ["true"])


@pytest.mark.parametrize(
    ("text", "exact", "extended"),
    [
        ('identity.email == "contact@example.com"', False, True),
        ('identity.email in {"contact@example.com" "x@example.com"}', False, True),
        ('identity.email == "con.tact@example.com"', False, True),
        ("identity.email in $people", False, True),
        ('identity.email matches "^contact@"', False, True),
        ('identity.email matches "123@"', True, True),
        ('identity.email != "contact@example.com"', True, True),
        ('identity.email != "con.tact+123@example.com"', False, False),
        ('not identity.email matches "^contact@"', True, True),
        ('not not identity.email == "contact@example.com"', False, True),
        ('identity.email == "contact@example.org"', False, False),
        ('any(identity.groups.email[*] == "all@example.com")', False, False),
    ],
)
def test_rules_that_block_match_extended_addresses(text: str, exact: bool, extended: bool) -> None:
    """contact+123@ and con.tact@ are contact@ for a policy that blocks, and not for one that allows; nor where the
    policy says whom it spares, because there a variant would escape it."""
    people = {"people": NamedList.of(Type.EMAIL, ["contact@example.com"])}
    fields = {"identity.email": "con.tact+123@Example.com", "identity.groups.email": ["a.ll@example.com"]}
    assert holds(text, IDENTITY, people, fields=fields) is exact
    assert holds(text, IDENTITY, people, extended_emails=True, fields=fields) is extended
    assert holds('identity.email == ""', IDENTITY, extended_emails=True) is False


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("a.b+c.d+e@x.example", "ab@x.example"),
        ("ab@x.example", "ab@x.example"),
        ("a.b", "a.b"),
        ("a+b@c@d.example", "a@d.example"),
        ("", ""),
    ],
)
def test_plain_addresses(address: str, plain: str) -> None:
    assert plain_email(address) == plain


@pytest.mark.parametrize(
    ("pattern", "open_ended"),
    [
        (".*@example.com", True),
        (".*@example.com$", False),
        (r".*@example.com\z", False),
        (r".*@example.com\$", True),
        (r".*@example.com\\$", False),
        ("a$|b", True),
        ("a$|b$", False),
        ("^(a|b)$", False),
        (r"[|]\|$", False),
        ("(a|b$)", True),
        ("", True),
    ],
)
def test_a_pattern_without_an_end_is_warned_about(pattern: str, open_ended: bool) -> None:
    """Decision 30a: it is accepted, because the seeds' own example is one."""
    text = f'net.sni.host matches "{pattern}" or net.vnet_id matches "{pattern}"'
    warned = advise(parse_expression(text, Scope.L4_TRAFFIC))
    assert [warning.column for warning in warned] == ([1] if open_ended else [])


def test_the_seeds_pattern_matches_more_than_it_says() -> None:
    """Decision 30a: a pattern is looked for anywhere."""
    assert holds('identity.email matches ".*@example.com"', IDENTITY, identity_email="x@example.com.evil.org")
    assert not holds('identity.email matches ".*@example.com$"', IDENTITY, identity_email="x@example.com.evil.org")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"net.dst.prt": 1}, "did you mean net.dst.port?"),
        ({"nonsense": 1}, "no such field"),
        ({"net.dst.port": "443"}, "a number from 0 to 65535"),
        ({"net.dst.port": 65_536}, "a number from 0 to 65535"),
        ({"net.dst.port": -1}, "a number from 0 to 65535"),
        ({"net.dst.port": True}, "a number from 0 to 65535"),
        ({"net.dst.ip": "10.0.0"}, "an IP address"),
        ({"net.dst.ip": "fe80::1%eth0"}, "an IP address"),
        ({"net.dst.ip": "10.0.0.1\0"}, "an IP address"),
        ({"net.dst.ip": 1}, "an IP address"),
        ({"net.protocol": b"tcp"}, "holds text"),
        ({"net.protocol": "\ud800"}, "surrogate"),
        ({"net.vnet_id": "x" * 8_193}, "at most 8192 characters"),
        ({"access.target": 1}, "true or false"),
        ({"net.sni.domains": "example.com"}, "several values are a list"),
        ({"app.ids": 1}, "several values are a list"),
        ({"app.ids": ["1"]}, "a number"),
    ],
)
def test_traffic_holds_what_its_fields_hold(values: dict[str, object], message: str) -> None:
    with pytest.raises(TrafficInvalid) as wrong:
        read_traffic(values)
    assert message in wrong.value.message
    assert wrong.value.name in values


def test_domains_come_from_the_host() -> None:
    traffic = read_traffic({"net.sni.host": "A.b.Example.com.", "http.request.host": None})
    assert traffic["net.sni.domains"] == ("a.b.example.com", "b.example.com", "example.com", "com")
    assert "http.request.domains" not in traffic
    given = read_traffic({"dns.fqdn": "a.b", "dns.domains": ["c"]})
    assert given["dns.domains"] == ("c",)


def test_every_field_can_be_asked_about_where_it_belongs_and_nowhere_else() -> None:
    literals = {Type.ADDRESS: "10.0.0.1", Type.INTEGER: "7", Type.BOOLEAN: "true"}
    given = {Type.ADDRESS: "10.0.0.1", Type.INTEGER: 7, Type.BOOLEAN: True}
    for name in [*FIELDS, *OTHER_NAMES]:
        field = FIELDS[OTHER_NAMES.get(name, name)]
        value = given.get(field.type, "x")
        literal = literals.get(field.type, '"x"')
        asked = [f"{name} == {literal}", *([f"any({name}[*] == {literal})"] if field.many else [])]
        assert field.source
        for scope in Scope:
            for text in asked:
                if scope in field.scopes:
                    assert holds(text, scope, fields={name: [value] if field.many else value})
                else:
                    with pytest.raises(ExpressionInvalid, match="belongs in"):
                        parse_expression(text, scope)


def test_one_value_is_a_set_of_one() -> None:
    root = parse_expression('net.protocol == "tcp"', Scope.L4_TRAFFIC).root
    assert root == OneOf(field=FIELDS["net.protocol"], members=frozenset({"tcp"}), column=0, end=0)
