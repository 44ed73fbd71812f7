"""The expressions of the seeds and of public documentation, to the letter; Terraform's own escapes are resolved."""

import pytest

from guardhouse.expressions import NamedList, Scope, Type, compile_expression, parse_expression, read_traffic

WIKI = NamedList.of(Type.ADDRESS, ["10.1.0.0/16", "192.0.2.7"])
HOSTS = NamedList.of(Type.HOST, ["files.example.com", "example.org"])

L4, HTTP, DNS = Scope.L4_TRAFFIC, Scope.HTTP_TRAFFIC, Scope.DNS_TRAFFIC
IDENTITY, POSTURE = Scope.IDENTITY, Scope.DEVICE_POSTURE
PROFILE, IP_PROFILE = Scope.DEVICE_PROFILE, Scope.IP_PROFILE

UUID = "1308749e-fcfb-4ebc-b051-fe022b632644"

EXAMPLES: list[tuple[Scope, str, dict[str, object], dict[str, object]]] = [
    # The seeds' Terraform resource; the list's id stands where Terraform would put it.
    (L4, "net.dst.ip in $wiki_IPs", {"net.dst.ip": "10.1.2.3"}, {"net.dst.ip": "10.2.0.0"}),
    (L4, f"net.dst.ip in ${UUID}", {"net.dst.ip": "192.0.2.7"}, {"net.dst.ip": "192.0.2.8"}),
    (
        IDENTITY,
        'identity.email matches ".*@example.com"',
        {"identity.email": "jdoe@example.com"},
        {"identity.email": "jdoe@example.net"},
    ),
    # Device profiles and IP profiles. `and` binds more tightly than `or`, so jdoe needs no windows.
    (
        PROFILE,
        """identity.email in {"jdoe@example.com"} or any(identity.groups.name[*] in {"developers"}) \
        and os.name == "windows\"""",
        {"identity.email": "jdoe@example.com", "os.name": "linux"},
        {"identity.email": "x@example.com", "identity.groups.name": ["developers"], "os.name": "linux"},
    ),
    (PROFILE, 'identity.email == "x"', {"identity.email": "x"}, {"identity.email": "y"}),
    (
        PROFILE,
        'identity.email == "non_identity@team.cloudflareaccess.com"',
        {"identity.email": "non_identity@team.cloudflareaccess.com"},
        {},
    ),
    (
        PROFILE,
        'identity.service_token_uuid == "f174e90a-fafe-4643-bbbc-4a0ed4fc8415"',
        {"identity.service_token_uuid": "f174e90a-fafe-4643-bbbc-4a0ed4fc8415"},
        {},
    ),
    (PROFILE, 'network == "Austin office"', {"network": "Austin office"}, {"network": "Austin"}),
    (PROFILE, 'os.name in {"windows" "mac"}', {"os.name": "mac"}, {"os.name": "linux"}),
    (PROFILE, 'os.version == "1.2.0"', {"os.version": "1.2.0"}, {"os.version": "1.2"}),
    (IP_PROFILE, 'identity.name matches "^J"', {"identity.name": "Jane"}, {"identity.name": "Ann"}),
    # The three ways in which the documentation writes groups.
    (
        IDENTITY,
        'any(identity.groups.name[*] in {"finance"})',
        {"identity.groups.name": ["x", "finance"]},
        {"identity.groups.name": ["financial"]},
    ),
    (
        IDENTITY,
        'any(identity.groups[*].name in {"Engineering" "Security"})',
        {"identity.groups.name": ["Security"]},
        {"identity.groups.name": []},
    ),
    (
        IDENTITY,
        'identity.groups.name == "admins"',
        {"identity.groups.name": ["admins"]},
        {"identity.groups.name": ["a"]},
    ),
    (IDENTITY, 'any(identity.groups[*].id in {"group_id"})', {"identity.groups.id": ["group_id"]}, {}),
    (
        IDENTITY,
        'any(identity.groups[*].email in {"group@example.com"})',
        {"identity.groups.email": ["Group@Example.com"]},
        {},
    ),
    # SAML attributes and OIDC claims, as one text or by their key.
    (
        IDENTITY,
        'any(identity.saml_attributes[*] in {"group=finance"})',
        {"identity.saml_attributes": ["group=finance"]},
        {"identity.saml_attributes": ["group=financial"]},
    ),
    (
        IDENTITY,
        'any(identity.saml_attributes["http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name"] in {"Test User"})',
        {"identity.saml_attributes": {"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name": "Test User"}},
        {"identity.saml_attributes": {"name": "Test User"}},
    ),
    (
        IDENTITY,
        'identity.oidc_claims == "department=engineering"',
        {"identity.oidc_claims": {"department": ["sales", "engineering"]}},
        {"identity.oidc_claims": {"department": "sales"}},
    ),
    # Device posture.
    (
        POSTURE,
        f'any(device_posture.checks.passed[*] in {{"{UUID}"}})',
        {"device_posture.checks.passed": [UUID]},
        {"device_posture.checks.failed": [UUID]},
    ),
    (
        POSTURE,
        f'not(any(device_posture.checks.passed[*] in {{"{UUID}"}}))',
        {},
        {"device_posture.checks.passed": [UUID]},
    ),
    # Network policies.
    (L4, "net.dst.ip in {10.0.0.0/8}", {"net.dst.ip": "10.255.255.255"}, {"net.dst.ip": "11.0.0.0"}),
    (L4, "net.dst.port in {80 443}", {"net.dst.port": 443}, {"net.dst.port": 81}),
    (L4, "net.dst.port == 80 or net.dst.port == 443", {"net.dst.port": 80}, {"net.dst.port": 8080}),
    (
        L4,
        "net.dst.ip in {10.0.0.0/8} and net.dst.port in {80 443 8080 53} and not(net.dst.ip in {10.217.0.0/16})",
        {"net.dst.ip": "10.216.0.1", "net.dst.port": 53},
        {"net.dst.ip": "10.217.0.1", "net.dst.port": 53},
    ),
    (
        L4,
        'net.dst.ip in {10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.96.0.0/12} and net.protocol == "tcp"',
        {"net.dst.ip": "100.96.0.1", "net.protocol": "tcp"},
        {"net.dst.ip": "100.95.0.1", "net.protocol": "tcp"},
    ),
    (
        L4,
        'net.detected_protocol == "tls" and net.dst.port in {80 443}',
        {"net.detected_protocol": "tls", "net.dst.port": 80},
        {"net.protocol.detection": "ssh", "net.dst.port": 80},
    ),
    (
        L4,
        'net.dst.ip in $wiki_IPs and net.sni.host in $some-hosts and net.detected_protocol == "ssh"',
        {"net.dst.ip": "10.1.0.9", "net.sni.host": "files.example.com", "net.detected_protocol": "ssh"},
        {"net.dst.ip": "10.1.0.9", "net.sni.host": "x.files.example.com", "net.detected_protocol": "ssh"},
    ),
    (
        L4,
        'any(net.sni.domains[*] == "internalapp.com")',
        {"net.sni.host": "a.internalapp.com"},
        {"net.sni.host": "app.com"},
    ),
    (L4, "any(net.sni.domains[*] in $some-hosts)", {"net.sni.host": "a.b.example.org"}, {"net.sni.host": "org"}),
    (L4, "any(net.fqdn.content_category[*] in {1})", {"net.fqdn.content_category": [7, 1]}, {}),
    (L4, 'net.onramp.type == "device_client"', {"net.onramp.type": "device_client"}, {"net.onramp.type": "mesh"}),
    (L4, "access.private_app", {"access.private_app": True}, {"access.private_app": False}),
    # HTTP policies.
    (HTTP, 'http.request.host == "api.example.com"', {"http.request.host": "api.example.com"}, {}),
    (HTTP, 'http.conn.hostname == "api.example.com"', {"http.request.host": "api.example.com"}, {}),
    (HTTP, 'http.request.host != "blocked.com"', {"http.request.host": "x.com"}, {"http.request.host": "blocked.com"}),
    (HTTP, "http.request.host in $some-hosts", {"http.request.host": "EXAMPLE.org."}, {"http.request.host": "x.org"}),
    (
        HTTP,
        r'http.request.host matches ".*\.example\.com"',
        {"http.request.host": "a.example.com"},
        {"http.request.host": "a.exampleXcom"},
    ),
    (HTTP, 'any(http.request.domains[*] == "example.com")', {"http.request.host": "a.b.example.com"}, {}),
    (HTTP, 'any(http.request.domains[*] in {"example.com" "example.net"})', {"http.request.host": "example.net"}, {}),
    (HTTP, "any(http.request.uri.content_category[*] in {17 85 102})", {"http.request.uri.content_category": [85]}, {}),
    (HTTP, 'http.request.uri matches "/r/gaming"', {"http.request.uri": "https://example.com/r/gaming/new"}, {}),
    (
        HTTP,
        'http.request.uri.path == "/foo/bar"',
        {"http.request.uri.path": "/foo/bar"},
        {"http.request.uri.path": "/Foo/bar"},
    ),
    (
        HTTP,
        'http.request.uri.path_and_query == "/foo/bar?ab%242=%2A342"',
        {"http.request.uri.path_and_query": "/foo/bar?ab%242=%2A342"},
        {},
    ),
    (
        HTTP,
        'any(app.ids[*] in {554}) and http.request.uri.path_and_query matches ".(e=download|export).*"',
        {"app.ids": [554], "http.request.uri.path_and_query": "/file?e=download"},
        {"app.ids": [554], "http.request.uri.path_and_query": "/file?e=upload"},
    ),
    (HTTP, 'http.request.method == "GET"', {"http.request.method": "GET"}, {"http.request.method": "PUT"}),
    (HTTP, "http.upload.file.size > 10", {"http.upload.file.size": 11}, {"http.upload.file.size": 10}),
    (HTTP, "http.download.file.size >= 100", {"http.download.file.size": 100}, {"http.download.file.size": 99}),
    (HTTP, "http.upload.file.size < 50", {"http.upload.file.size": 49}, {"http.upload.file.size": 50}),
    (HTTP, "http.download.file.size <= 200", {"http.download.file.size": 200}, {"http.download.file.size": 201}),
    (HTTP, 'any(http.download.file.types[*] in {"docx" "7z"})', {"http.download.file.types": ["7z"]}, {}),
    (HTTP, 'http.download.mime == "image/png"', {"http.download.mime": "image/png"}, {}),
    (HTTP, 'any(app.statuses[*] == "approved")', {"app.statuses": ["approved"]}, {"app.statuses": ["in review"]}),
    (HTTP, "any(http.conn.dst_ip[*] in {10.0.0.0/8})", {"http.conn.dst_ip": ["192.0.2.1", "10.0.0.1"]}, {}),
    (HTTP, 'http.dst_ip.geo.continent == "EU"', {"http.dst_ip.geo.continent": "EU"}, {}),
    # DNS policies.
    (DNS, 'dns.fqdn == "example.com"', {"dns.fqdn": "example.com."}, {"dns.fqdn": "www.example.com"}),
    (DNS, 'any(dns.domains[*] == "example.com")', {"dns.fqdn": "www.example.com"}, {"dns.fqdn": "example.com.net"}),
    (
        DNS,
        "any(dns.content_category[*] in {169 177 124}) and not(any(dns.domains[*] in $some-hosts))",
        {"dns.fqdn": "example.com", "dns.content_category": [177]},
        {"dns.fqdn": "www.example.org", "dns.content_category": [177]},
    ),
    (
        DNS,
        'any(dns.domains[*] == "snu.lge.com") and dns.location in {"freebox"}',
        {"dns.fqdn": "snu.lge.com", "dns.location": "freebox"},
        {"dns.fqdn": "snu.lge.com", "dns.location": "x"},
    ),
    (DNS, "dns.authoritative_ns_ips == 198.51.100.0", {"dns.authoritative_ns_ips": ["198.51.100.0"]}, {}),
    (DNS, "any(dns.resolved_ips[*] == 198.51.100.0)", {"dns.resolved_ips": ["198.51.100.0"]}, {}),
    (DNS, 'dns.query_rtype == "TXT"', {"dns.query_rtype": "TXT"}, {"dns.query_rtype": "A"}),
]


@pytest.mark.parametrize(("scope", "text", "inside", "outside"), EXAMPLES, ids=[text for _, text, _, _ in EXAMPLES])
def test_an_example_holds_for_what_it_means(
    scope: Scope, text: str, inside: dict[str, object], outside: dict[str, object]
) -> None:
    expression = parse_expression(text, scope)
    asked = compile_expression(expression, {"wiki_IPs": WIKI, UUID: WIKI, "some-hosts": HOSTS})
    assert expression.text == text
    assert asked(read_traffic(inside))
    assert not asked(read_traffic(outside))
