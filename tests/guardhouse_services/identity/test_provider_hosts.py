"""Where a provider's documents are fetched from: its own host, and a host of the public internet (invariant I-30)."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from guardhouse.errors import IdentityProviderUnavailable
from guardhouse_services import tls
from guardhouse_services.identity import oidc
from guardhouse_services.identity.oidc import Issuers, host_name

SECONDS = 1_800_000_000
NOW = SECONDS * 1_000_000


@dataclass(frozen=True)
class Trusted:
    issuer: str
    client_ids: tuple[str, ...] = ("guardhouse",)
    oidc_claims: tuple[str, ...] = ()
    groups_claim: str = "groups"
    allow_unverified_email: bool = False
    allow_private_addresses: bool = False
    jwks_host: str = ""


@dataclass
class Provider:
    """One that serves over TLS as idp.test and keys.test, on a loopback port."""

    key: RSAKey
    port: int = 0
    jwks_host: str = "idp.test"
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each request its path, its Host header and the name that the TLS handshake asked for."""

    @property
    def trusted(self) -> Trusted:
        return Trusted(f"https://idp.test:{self.port}")

    def token(self) -> str:
        claims = {"iss": self.trusted.issuer, "sub": "u-1", "aud": "guardhouse", "iat": SECONDS, "exp": SECONDS + 600}
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def document(self, path: str) -> dict[str, Any]:
        if path == "/jwks":
            return {"keys": [self.key.as_dict()]}
        return {"issuer": self.trusted.issuer, "jwks_uri": f"https://{self.jwks_host}:{self.port}/jwks"}


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    tls.prepare(tmp_path, "test", ["idp.test", "keys.test"], 1_790_000_000_000_000)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    provider = Provider(RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True))
    names: dict[int, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append((self.path, self.headers["host"], names.get(id(self.connection), "")))
            body = json.dumps(provider.document(self.path)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are told by `asked`."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "identity.crt", tmp_path / "identity.key")
    context.sni_callback = lambda connection, name, _: names.__setitem__(id(connection), name or "")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    provider.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def issuers(provider: Provider) -> AsyncIterator[Issuers]:
    issuers = Issuers()
    yield issuers
    await issuers.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What DNS says of a name."""
    names: dict[str, list[str]] = {"idp.test": ["127.0.0.1"], "keys.test": ["127.0.0.1"]}
    real = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        host = host.decode() if isinstance(host, bytes) else host
        if host not in names:
            return await real(loop, host, port, **options)
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in it], socket.SOCK_STREAM, 6, "", (it, port or 0)) for it in names[host]]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine stands for the public internet."""
    real = oidc._is_public
    monkeypatch.setattr(oidc, "_is_public", lambda address: address.startswith("127.") or real(address))


async def refused(issuers: Issuers, trusted: Trusted, token: str) -> str:
    """What the log says of why the documents were not to be had."""
    with capture_logs() as logs, pytest.raises(IdentityProviderUnavailable):
        await issuers.verify(trusted, token, NOW)
    (log,) = logs
    return str(log["error"])


async def test_the_address_that_was_checked_is_asked_in_the_hosts_name(
    provider: Provider, issuers: Issuers, resolve: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no second answer of DNS can lead elsewhere, and the certificate must still be the host's."""

    async def checked(host: str) -> list[str]:
        resolve[host] = ["127.0.0.9"]
        return ["127.0.0.1"]

    monkeypatch.setattr(oidc, "_public_addresses", checked)
    assert (await issuers.verify(provider.trusted, provider.token(), NOW)).subject == "u-1"
    host = f"idp.test:{provider.port}"
    assert provider.asked == [
        ("/.well-known/openid-configuration", host, "idp.test"),
        ("/jwks", host, "idp.test"),
    ]


@pytest.mark.usefixtures("resolve", "public_loopback")
async def test_a_proxy_is_asked_only_for_a_provider_that_may_be_anywhere(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What address a proxy would go to is not known here."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{provider.port}")
    issuers = Issuers()
    assert (await issuers.verify(provider.trusted, provider.token(), NOW)).subject == "u-1"
    asked = len(provider.asked)
    # The provider speaks TLS, so as a proxy it is of no use.
    await refused(issuers, replace(provider.trusted, allow_private_addresses=True), provider.token())
    assert len(provider.asked) == asked
    await issuers.close()


@pytest.mark.usefixtures("public_loopback")
async def test_a_certificate_of_another_name_is_refused(
    provider: Provider, issuers: Issuers, resolve: dict[str, list[str]]
) -> None:
    resolve["other.test"] = ["127.0.0.1"]
    trusted = Trusted(f"https://other.test:{provider.port}")
    token = jwt.encode({"alg": "RS256", "kid": provider.key.kid}, {"iss": trusted.issuer}, provider.key)
    assert "certificate" in await refused(issuers, trusted, token)
    assert provider.asked == []


async def test_a_host_at_a_private_address_is_not_asked_unless_that_is_allowed(
    provider: Provider, issuers: Issuers, resolve: dict[str, list[str]]
) -> None:
    """One private address among public ones is enough; who allows it is not hindered by who does not."""
    for addresses in (["127.0.0.1"], ["9.9.9.9", "127.0.0.1"]):
        resolve["idp.test"] = addresses
        strict = Issuers()
        said = await refused(strict, provider.trusted, provider.token())
        assert "idp.test is at 127.0.0.1, which is no public address" in said
        await strict.close()
    assert provider.asked == []
    resolve["idp.test"] = ["127.0.0.1"]
    await refused(issuers, provider.trusted, provider.token())
    allowed = replace(provider.trusted, allow_private_addresses=True)
    assert (await issuers.verify(allowed, provider.token(), NOW)).subject == "u-1"
    # And what was fetched by that leave serves nobody who did not give it.
    with pytest.raises(IdentityProviderUnavailable):
        await issuers.verify(provider.trusted, provider.token(), NOW)


@pytest.mark.usefixtures("resolve", "public_loopback")
async def test_keys_at_another_host_are_not_fetched_unless_it_is_named(provider: Provider, issuers: Issuers) -> None:
    provider.jwks_host = "keys.test"
    said = await refused(issuers, provider.trusted, provider.token())
    assert "its keys are at another host, 'keys.test'" in said
    assert [path for path, _, _ in provider.asked] == ["/.well-known/openid-configuration"]
    named = replace(provider.trusted, jwks_host="keys.test")
    assert (await issuers.verify(named, provider.token(), NOW)).subject == "u-1"
    assert provider.asked[-1] == ("/jwks", f"keys.test:{provider.port}", "keys.test")


@pytest.mark.usefixtures("public_loopback")
async def test_a_host_that_does_not_answer_at_one_address_is_asked_at_the_next(
    provider: Provider, issuers: Issuers, resolve: dict[str, list[str]]
) -> None:
    resolve["idp.test"] = ["127.0.0.2", "127.0.0.1"]
    assert (await issuers.verify(provider.trusted, provider.token(), NOW)).subject == "u-1"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1"),
        *("64:ff9b::a00:1", "2002:a00:1::", "255.255.255.255", "198.18.0.1"),
    ],
)
def test_these_addresses_are_not_of_the_public_internet(address: str) -> None:
    assert not oidc._is_public(address)


@pytest.mark.parametrize("address", ["9.9.9.9", "2620:fe::fe", "64:ff9b::909:909"])
def test_these_addresses_are_of_the_public_internet(address: str) -> None:
    assert oidc._is_public(address)


def test_a_host_is_named_as_urls_have_it() -> None:
    for name in ("www.googleapis.com", "keys", "192.0.2.1", "xn--bcher-kva.example"):
        assert host_name(name) == name
    for name in (
        "",
        "https://keys.example",
        "keys.example/",
        "keys.example:443",
        "a@b",
        "KEYS.example",
        "b\u00fccher",
        "a b",
    ):
        with pytest.raises(ValueError, match="not "):
            host_name(name)
