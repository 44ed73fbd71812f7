"""Signing in at a provider: what a person and a provider may do, and what strangers may not."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from demo.issuer import Issuer, Person
from guardhouse import openid
from guardhouse.openid import Provider, Redirect, SignInFailed

ALICE = "alice@example.com"
Answer = tuple[int, Any]


class ScriptedProvider:
    """A provider that says what a test wants: `answers` by path, each a status and a body, used up but for the last."""

    def __init__(self) -> None:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers = scripted.answers.get(self.path, [(404, {})])
                status, body = answers[0] if len(answers) == 1 else answers.pop(0)
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["content-length"])).decode()
                fields = {name: values[0] for name, values in parse_qs(form).items()}
                scripted.requests.append((self.path, fields, dict(self.headers)))
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nobody reads it."""

        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.metadata: dict[str, Any] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device",
        }
        code = {"device_code": "d", "user_code": "WXYZ", "verification_uri": "https://idp.example/device"}
        self.answers: dict[str, list[Answer]] = {
            "/.well-known/openid-configuration": [(200, self.metadata)],
            "/device": [(200, code)],
        }
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def tokens(self, *answers: Answer) -> None:
        self.answers["/token"] = list(answers)

    def id_token(self, **claims: Any) -> str:
        """Unsigned: whoever checks signatures comes later."""
        said = {"iss": self.url, "aud": "cli", **claims}
        return f"e30.{base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip('=')}.c2ln"


@pytest.fixture(autouse=True)
def _one_authority(tls_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here meets TLS, so none waits until all the authorities of the world are read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_folder / "ca.crt"))


@pytest.fixture
def scripted() -> Iterator[ScriptedProvider]:
    provider = ScriptedProvider()
    yield provider
    provider.close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer([Person(ALICE, "Alice")]) as issuer:
        yield issuer


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited each time; nobody waits."""
    taken: list[float] = []
    monkeypatch.setattr("guardhouse.openid.time.sleep", taken.append)
    return taken


def browse(link: str, params: Mapping[str, str] | None = None) -> httpx.Response:
    """What a browser shows in the end. It meets no TLS here."""
    with httpx.Client(verify=False, trust_env=False, follow_redirects=True) as browser:
        return browser.get(link, params=params)


def query(link: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}


def answered(asked: Redirect, **answer: str) -> str:
    """The token after a browser has brought this answer; the state is the right one unless it is given."""
    wanted = query(asked.link)
    brought = browse(wanted["redirect_uri"], {"state": wanted["state"], **answer})
    assert brought.status_code == 200
    return asked.id_token(seconds=5)


def refused(act: Callable[[], object], *words: str) -> SignInFailed:
    with pytest.raises(SignInFailed) as failed:
        act()
    for word in words:
        assert word in str(failed.value)
    return failed.value


def test_a_browser_brings_a_code_that_only_this_program_can_use(issuer: Issuer) -> None:
    """RFC 7636 and RFC 8252: the provider insists on S256, and the port is a free one."""
    with Provider(issuer.url, issuer.client_id) as provider, provider.redirect() as asked:
        wanted = query(asked.link)
        assert wanted["redirect_uri"] == f"http://127.0.0.1:{asked.port}/callback"
        assert wanted["code_challenge_method"] == "S256"
        assert wanted["scope"] == "openid email profile groups"
        assert not {"prompt", "max_age"} & wanted.keys()
        page = browse(f"{asked.link}&login_hint={ALICE}")
        assert "Go back to the terminal" in page.text
        claims = openid._claims(asked.id_token(seconds=5))
    assert (claims["sub"], claims["nonce"]) == (ALICE, wanted["nonce"])


def test_a_provider_that_takes_one_port_only_gets_it(issuer: Issuer) -> None:
    with Provider(issuer.url, issuer.client_id) as provider, provider.redirect() as one:
        taken = partial(provider.redirect, port=one.port)
        refused(taken, f"port {one.port} of 127.0.0.1", "in use")
        one.__exit__()
        with taken() as other:
            assert f"127.0.0.1%3A{one.port}%2Fcallback" in other.link


def test_every_sign_in_has_a_state_a_nonce_and_a_challenge_of_its_own(issuer: Issuer) -> None:
    with (
        Provider(issuer.url, issuer.client_id) as provider,
        provider.redirect() as one,
        provider.redirect() as other,
    ):
        first, second = query(one.link), query(other.link)
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 43
        assert first[name] != second[name]


def test_who_must_sign_in_anew_is_asked_so_and_says_when(issuer: Issuer) -> None:
    """Decision 33."""
    with Provider(issuer.url, issuer.client_id) as provider, provider.redirect(fresh=True) as asked:
        wanted = query(asked.link)
    assert (wanted["prompt"], wanted["max_age"]) == ("login", "0")


def test_an_answer_without_the_state_neither_signs_in_nor_ends_the_wait(scripted: ScriptedProvider) -> None:
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        wanted = query(asked.link)
        scripted.tokens((200, {"id_token": scripted.id_token(nonce=wanted["nonce"])}))
        for stranger in (
            "?code=stolen",
            "?code=stolen&state=guessed",
            "?error=access_denied&state=",
            "?" + "a=b&" * 99,
        ):
            assert browse(wanted["redirect_uri"] + stranger).status_code == 404
        elsewhere = wanted["redirect_uri"].replace("/callback", "/")
        assert browse(elsewhere, {"state": wanted["state"]}).status_code == 404
        answered(asked, code="right")
    ((_, form, _),) = scripted.requests
    assert form["code"] == "right"
    assert len(form["code_verifier"]) >= 43


def test_what_is_no_request_of_a_browser_is_not_heard(
    scripted: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        wanted = query(asked.link)
        for sent in (b"GET http://[ HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"GET /callback HTTP/1.1\r\n"):
            with socket.create_connection(("127.0.0.1", asked.port)) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                assert b" 200 " not in connection.recv(1 << 16)
        scripted.tokens((200, {"id_token": scripted.id_token(nonce=wanted["nonce"])}))
        answered(asked, code="right")
    assert capsys.readouterr().err == ""


def test_the_page_shows_nothing_of_what_came_and_is_kept_nowhere(scripted: ScriptedProvider) -> None:
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        wanted = query(asked.link)
        evil = {"state": wanted["state"], "error": "<script>", "error_description": "<script>"}
        page = browse(wanted["redirect_uri"], evil)
        assert "<script>" not in page.text
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["content-security-policy"] == "default-src 'none'"
        # What comes second is nothing any more.
        browse(wanted["redirect_uri"], {"state": wanted["state"], "code": "late"})
        refused(lambda: asked.id_token(seconds=5), "<script>")


@pytest.mark.parametrize(
    ("spoiled", "word"),
    [
        ({"nonce": "another"}, "answers another sign-in"),
        ({"iss": "https://elsewhere.example"}, "no ID token of its own"),
        ({"aud": "another"}, "no ID token of its own"),
        ({"aud": ["a", "b"]}, "no ID token of its own"),
    ],
)
def test_a_token_that_answers_something_else_is_refused(
    scripted: ScriptedProvider, spoiled: Mapping[str, Any], word: str
) -> None:
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        claims = {"nonce": query(asked.link)["nonce"], **spoiled}
        scripted.tokens((200, {"id_token": scripted.id_token(**claims)}))
        refused(lambda: answered(asked, code="c"), word)


@pytest.mark.parametrize("answer", [{}, {"id_token": 7}, {"id_token": "no.token"}, {"id_token": "a.b.c"}])
def test_an_answer_that_holds_no_token_is_refused(scripted: ScriptedProvider, answer: Mapping[str, Any]) -> None:
    scripted.tokens((200, answer))
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        refused(lambda: answered(asked, code="c"), "no ID token of its own")


def test_an_answer_of_another_provider_goes_to_no_token_endpoint(scripted: ScriptedProvider) -> None:
    """RFC 9207."""
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        refused(lambda: answered(asked, code="c", iss="https://elsewhere.example"), "another provider")
    scripted.metadata["authorization_response_iss_parameter_supported"] = True
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        refused(lambda: answered(asked, code="c"), "another provider")
    assert scripted.requests == []


def test_who_declines_or_never_comes_is_told_so(scripted: ScriptedProvider) -> None:
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        declined = refused(lambda: answered(asked, error="access_denied", error_description="no"), "access_denied: no")
        assert declined.error == "access_denied"
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        assert refused(lambda: asked.id_token(seconds=0.05)).error == "expired_token"


def test_a_secret_is_sent_the_way_the_provider_takes_it(scripted: ScriptedProvider) -> None:
    """RFC 6749, section 2.3.1: Basic, of the form-encoded pair, unless the provider takes it in the form only."""
    scripted.tokens((400, {"error": "invalid_grant"}))
    for methods in (None, ["client_secret_post", "client_secret_basic"], ["client_secret_post"]):
        if methods is not None:
            scripted.metadata["token_endpoint_auth_methods_supported"] = methods
        with Provider(scripted.url, "cli", "a b:c%") as provider, provider.redirect() as asked:
            assert refused(partial(answered, asked, code="c")).error == "invalid_grant"
    basic, both, post = scripted.requests
    for _, form, headers in (basic, both):
        assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"cli:a+b%3Ac%25"
        assert "client_secret" not in form
    assert "authorization" not in post[2]
    assert post[1]["client_secret"] == "a b:c%"
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        refused(lambda: answered(asked, code="c"))
    _, form, headers = scripted.requests[-1]
    assert "authorization" not in headers
    assert "client_secret" not in form
    assert form["client_id"] == "cli"


def test_a_scope_for_groups_is_asked_for_only_where_there_is_one(scripted: ScriptedProvider) -> None:
    scripted.metadata["scopes_supported"] = ["openid"]
    with Provider(scripted.url, "cli") as provider, provider.redirect() as asked:
        assert query(asked.link)["scope"] == "openid email profile"


def test_a_code_is_asked_after_as_seldom_as_the_provider_wants(scripted: ScriptedProvider, naps: list[float]) -> None:
    """RFC 8628, section 3.5."""
    scripted.tokens(
        (400, {"error": "authorization_pending"}),
        (400, {"error": "slow_down"}),
        (503, b"down"),
        (200, {"id_token": scripted.id_token()}),
    )
    with Provider(scripted.url, "cli") as provider:
        asked = provider.device_code(fresh=True)
        assert (asked.user_code, asked.link) == ("WXYZ", "https://idp.example/device")
        assert openid._claims(asked.id_token())["aud"] == "cli"
    assert naps == [5, 5, 10, 20]
    assert {form.get("device_code") for path, form, _ in scripted.requests if path == "/token"} == {"d"}
    assert scripted.requests[0][1]["prompt"] == "login"


def test_a_code_is_of_no_use_to_another_program(scripted: ScriptedProvider, naps: list[float]) -> None:
    """RFC 7636, section 4: some providers want it of clients that enter a code on another device as well."""
    with Provider(scripted.url, "cli") as provider:
        asked = [provider.device_code() for _ in range(2)]
        for it in asked:
            scripted.tokens((200, {"id_token": scripted.id_token()}))
            it.id_token()
    begun, fetched = ([form for at, form, _ in scripted.requests if at == path] for path in ("/device", "/token"))
    assert [form["code_challenge"] for form in begun] == [
        base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        for form in fetched
    ]
    assert {form["code_challenge_method"] for form in begun} == {"S256"}
    assert len({form["code_challenge"] for form in begun}) == 2


@pytest.mark.parametrize("error", ["access_denied", "expired_token", "invalid_grant"])
def test_a_code_that_is_of_no_use_any_more_ends_the_wait(
    scripted: ScriptedProvider, naps: list[float], error: str
) -> None:
    scripted.tokens((400, {"error": "authorization_pending"}), (400, {"error": error}))
    with Provider(scripted.url, "cli") as provider:
        assert refused(provider.device_code().id_token).error == error
    assert len(naps) == 2


def test_a_code_is_waited_for_as_long_as_it_is_good(scripted: ScriptedProvider, naps: list[float]) -> None:
    scripted.answers["/device"][0][1]["expires_in"] = 3
    with Provider(scripted.url, "cli") as provider:
        assert refused(provider.device_code().id_token, "within 3 s").error == "expired_token"
    assert naps == []


def test_a_provider_without_codes_says_so(scripted: ScriptedProvider) -> None:
    del scripted.metadata["device_authorization_endpoint"]
    with Provider(scripted.url, "cli") as provider:
        assert refused(provider.device_code).error == "unsupported_grant_type"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((200, {"issuer": "https://elsewhere.example"}), "another issuer"),
        ((200, b"<html>"), "without JSON"),
        ((200, b"[" * 100_000), "without JSON"),
        ((200, b" " * (openid.DOCUMENT_BYTES + 1)), "more than"),
        ((500, {}), "answered 500"),
    ],
)
def test_what_is_no_provider_is_not_asked(scripted: ScriptedProvider, answer: Answer, word: str) -> None:
    scripted.answers["/.well-known/openid-configuration"] = [answer]
    refused(lambda: Provider(scripted.url, "cli"), word)


@pytest.mark.parametrize(
    "url",
    ["http://idp.example/", "file:///etc/passwd", "javascript:alert(1)", "https://me:pw@idp.example/", "", None, 7],
)
def test_neither_people_nor_secrets_go_anywhere_but_to_https(scripted: ScriptedProvider, url: object) -> None:
    """http is for this machine only."""
    scripted.metadata["authorization_endpoint"] = scripted.metadata["device_authorization_endpoint"] = url
    with Provider(scripted.url, "cli") as provider:
        refused(provider.redirect, "not a URL of https")
        refused(provider.device_code, "not a URL of https")
    refused(lambda: Provider(str(url), "cli"), "not a URL of https")


def test_a_provider_that_is_down_is_named() -> None:
    assert refused(lambda: Provider("http://127.0.0.1:9", "cli"), "127.0.0.1 does not answer").error == "unreachable"
