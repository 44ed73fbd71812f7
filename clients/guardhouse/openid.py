"""Signing a person in at an OpenID Connect provider, from a program on the person's own machine.

Two ways lead to an ID token: a browser that is redirected to this machine (RFC 8252) with an authorization code that
only this program can use (RFC 7636), and a code that the person enters on any device (RFC 8628). Whoever the token is
given to verifies it; what is checked here is that it answers what was asked, which nobody else can tell.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import queue
import secrets
import socketserver
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Self
from urllib.parse import parse_qsl, quote_plus, urlsplit

import httpx

REDIRECT_PATH: Final = "/callback"
REDIRECT_URI: Final = f"http://127.0.0.1{REDIRECT_PATH}"
"""What a client is registered with. Providers take it with any port (RFC 8252, section 7.3); most do."""
SECONDS: Final = 300.0
"""How long somebody has to sign in in a browser, and the most that a code is waited for."""
SCOPES: Final = ("openid", "email", "profile", "groups")

FETCH_SECONDS: Final = 10.0
DOCUMENT_BYTES: Final = 256 << 10
INTERVAL: Final = 5.0
"""Seconds from one question after a code to the next, unless the provider names others (RFC 8628, section 3.2)."""
LONGEST_INTERVAL: Final = 60.0
UNREACHABLE: Final = "unreachable"

_PAGE: Final = b"""<!doctype html><meta charset="utf-8"><title>Guardhouse</title>
<p>Go back to the terminal: it goes on there. You may close this window.</p>"""
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-length": str(len(_PAGE)),
    "content-security-policy": "default-src 'none'",
    "content-type": "text/html; charset=utf-8",
    "referrer-policy": "no-referrer",
}


class SignInFailed(Exception):
    """Nobody was signed in. The text says why; `error` is the provider's code for it (RFC 6749, section 5.2), if any.

    Two codes are ours: `unreachable`, and RFC 8628's `expired_token` for whoever has not signed in in time.
    """

    def __init__(self, text: str, error: str = "") -> None:
        super().__init__(text)
        self.error = error


class Provider:
    """An OpenID Connect provider, as one client of it sees it. A public client has no secret.

    Every method raises SignInFailed.
    """

    def __init__(self, issuer: str, client_id: str, client_secret: str = "") -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._secret = client_secret
        self._http = httpx.Client(timeout=FETCH_SECONDS, headers={"accept-encoding": "identity"})
        try:
            self._metadata = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if self._metadata.get("issuer") != issuer:
                raise SignInFailed(f"what answers at {issuer} is another issuer: {self._metadata.get('issuer')!r:.100}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def redirect(self, *, fresh: bool = False, port: int = 0) -> "Redirect":
        """Begins a sign-in in a browser on this machine. With `fresh` the person must do it anew (decision 33).

        A port of 0 is a free one.
        """
        return Redirect(self, fresh, port)

    def device_code(self, *, fresh: bool = False) -> "DeviceCode":
        """Begins a sign-in with a code on any device."""
        if "device_authorization_endpoint" not in self._metadata:
            raise SignInFailed("the provider has no sign-in with a code", "unsupported_grant_type")
        # RFC 8628 has no PKCE, and has every provider pass over what it does not know; Keycloak insists on it where its
        # client does.
        verifier = secrets.token_urlsafe(32)
        return DeviceCode(self, self._post("device_authorization_endpoint", self._wanted(fresh, verifier)), verifier)

    def _wanted(self, fresh: bool, verifier: str) -> dict[str, str]:
        """What every request for a sign-in holds; whoever fetches its token must have `verifier` (RFC 7636)."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        offered = self._metadata.get("scopes_supported")
        # Many refuse a scope that they do not know, and nothing but the list says whether they know one for groups.
        scopes = [it for it in SCOPES if it != "groups" or (isinstance(offered, list) and it in offered)]
        wanted = {"scope": " ".join(scopes), "code_challenge": challenge, "code_challenge_method": "S256"}
        # max_age makes the provider say when it was (OpenID Connect Core 1.0, section 2).
        return wanted | ({"prompt": "login", "max_age": "0"} if fresh else {})

    def _endpoint(self, name: str) -> httpx.URL:
        return _url(self._metadata.get(name))

    def _get(self, url: str) -> dict[str, Any]:
        status, document = self._fetch(self._http.build_request("GET", _url(url)))
        if status != httpx.codes.OK:
            raise SignInFailed(f"{url} answered {status}", UNREACHABLE)
        return document

    def _post(self, endpoint: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a form, sent as this client (RFC 6749, section 2.3.1). An error in it raises."""
        form, headers = {"client_id": self.client_id, **form}, {}
        if self._secret:
            if "client_secret_basic" in self._metadata.get("token_endpoint_auth_methods_supported", _UNSAID):
                pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
                headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            else:
                form["client_secret"] = self._secret
        url = self._endpoint(endpoint)
        status, answer = self._fetch(self._http.build_request("POST", url, data=form, headers=headers))
        if "error" in answer:
            raise _refused(answer)
        if status != httpx.codes.OK:
            raise SignInFailed(f"{url} answered {status}", UNREACHABLE)
        return answer

    def _fetch(self, request: httpx.Request) -> tuple[int, dict[str, Any]]:
        body = bytearray()
        try:
            response = self._http.send(request, stream=True)
            try:
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > DOCUMENT_BYTES:
                        raise SignInFailed(f"{request.url} answered more than {DOCUMENT_BYTES} bytes")
            finally:
                response.close()
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise SignInFailed(f"{request.url.host} does not answer: {why}", UNREACHABLE) from None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise SignInFailed(f"{request.url} answered {response.status_code} without JSON", UNREACHABLE)
        return response.status_code, document

    def _id_token(self, form: Mapping[str, str], nonce: str | None = None) -> str:
        """What the token endpoint gives for a grant, if it is of this issuer, for this client, and with the nonce."""
        id_token = self._post("token_endpoint", form).get("id_token")
        claims = _claims(id_token)
        audience = claims.get("aud")
        meant = self.client_id in (audience if isinstance(audience, list) else [audience])
        if not isinstance(id_token, str) or claims.get("iss") != self.issuer or not meant:
            raise SignInFailed("the provider gave no ID token of its own for this client")
        if nonce is not None and claims.get("nonce") != nonce:
            raise SignInFailed("the provider's ID token answers another sign-in than this one")
        return id_token


_UNSAID: Final = ("client_secret_basic",)
"""How clients authenticate where the metadata does not say (OpenID Connect Discovery 1.0, section 3)."""


class Redirect:
    """A sign-in in a browser on this machine, which `link` begins. It listens from `__enter__` to `__exit__`."""

    def __init__(self, provider: Provider, fresh: bool, port: int) -> None:
        self._provider = provider
        endpoint = provider._endpoint("authorization_endpoint")
        self._state, self._nonce, self._verifier = (secrets.token_urlsafe(32) for _ in range(3))
        try:
            self._server = _Listener(self._state, port)
        except OSError as error:
            raise SignInFailed(f"the browser cannot come back to port {port} of 127.0.0.1: {error.strerror}") from None
        self.port: int = self._server.server_address[1]
        self._redirect_uri = f"http://127.0.0.1:{self.port}{REDIRECT_PATH}"
        wanted = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": self._redirect_uri,
            "state": self._state,
            "nonce": self._nonce,
            **provider._wanted(fresh, self._verifier),
        }
        self.link = str(endpoint.copy_merge_params(wanted))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=[0.05], name="redirect", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def id_token(self, seconds: float) -> str:
        """Waits until somebody has signed in."""
        try:
            answer = self._server.answers.get(timeout=seconds)
        except queue.Empty:
            raise SignInFailed(f"nobody has signed in within {seconds:.0f} s", "expired_token") from None
        # Another provider's answer would be sent to this one's token endpoint, code and all (RFC 9207).
        said = self._provider._metadata.get("authorization_response_iss_parameter_supported") is True
        if ("iss" in answer or said) and answer.get("iss") != self._provider.issuer:
            raise SignInFailed("the answer came from another provider than the one that was asked")
        if "code" not in answer:
            raise _refused(answer)
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": self._redirect_uri,
            "code_verifier": self._verifier,
        }
        return self._provider._id_token(form, self._nonce)


class DeviceCode:
    """A sign-in with a code: the person opens `link` on any device and enters `user_code`."""

    def __init__(self, provider: Provider, answer: Mapping[str, Any], verifier: str) -> None:
        self._provider = provider
        self._verifier = verifier
        self._code = answer.get("device_code")
        self.user_code = answer.get("user_code")
        if not isinstance(self._code, str) or not isinstance(self.user_code, str) or not self.user_code:
            raise SignInFailed("the provider answered without a code")
        self.link = str(_url(answer.get("verification_uri")))
        self._interval = _number(answer.get("interval"), INTERVAL, LONGEST_INTERVAL)
        self.seconds = _number(answer.get("expires_in"), SECONDS, SECONDS)

    def id_token(self) -> str:
        """Waits until somebody has signed in, and asks no oftener than the provider wants."""
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "device_code": str(self._code),
            "code_verifier": self._verifier,
        }
        deadline = time.monotonic() + self.seconds
        while time.monotonic() + self._interval < deadline:
            time.sleep(self._interval)
            try:
                return self._provider._id_token(form)
            except SignInFailed as failed:
                match failed.error:
                    case "authorization_pending":
                        continue
                    case "slow_down":  # RFC 8628, section 3.5.
                        self._interval = min(self._interval + 5, LONGEST_INTERVAL)
                    case _ if failed.error == UNREACHABLE:  # It may be there again before the code expires.
                        self._interval = min(self._interval * 2, LONGEST_INTERVAL)
                    case _:
                        raise
        raise SignInFailed(f"nobody has entered the code within {self.seconds:.0f} s", "expired_token")


class _Listener(socketserver.ThreadingTCPServer):
    """Takes the browser's answer on a port of 127.0.0.1: the first that has the state."""

    daemon_threads = True
    # A port that is not free to choose may have been used a moment ago. Elsewhere this would let two programs share it.
    allow_reuse_address = os.name == "posix"

    def __init__(self, state: str, port: int) -> None:
        self.state = state
        self.answers: queue.Queue[dict[str, str]] = queue.Queue(1)
        super().__init__(("127.0.0.1", port), _Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up in between is no news to the person at the terminal."""


class _Answer(BaseHTTPRequestHandler):
    """One request of a browser, or of anything else on this machine."""

    server: _Listener
    server_version = "guardhouse"
    sys_version = ""
    timeout = 5.0

    def do_GET(self) -> None:
        try:
            _, _, path, query, _ = urlsplit(self.path)
        except ValueError:
            path = query = ""
        answer = dict(parse_qsl(query))
        expected = hmac.compare_digest(answer.get("state", "").encode(), self.server.state.encode())
        if path != REDIRECT_PATH or not expected:
            # A page elsewhere can send the browser here, yet cannot know the state: it neither signs anybody in nor
            # ends the wait for who does.
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(_PAGE)
        # The program may be gone right after this, so the browser has its page already.
        try:
            self.server.answers.put_nowait(answer)
        except queue.Full:
            return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The request line has a code in it, so nothing is logged."""


def _url(text: object) -> httpx.URL:
    """A URL of https, or of http on this machine: people and secrets go there. Raises SignInFailed."""
    try:
        url = httpx.URL(text) if isinstance(text, str) else httpx.URL()
    except httpx.InvalidURL:
        url = httpx.URL()
    if not url.host or url.userinfo or not (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
        raise SignInFailed(f"not a URL of https: {text!r:.100}")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _claims(id_token: object) -> dict[str, Any]:
    """What a token says, before anybody has verified it; nothing if it is none."""
    try:
        _, payload, _ = str(id_token).split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _refused(answer: Mapping[str, Any]) -> SignInFailed:
    error = str(answer.get("error", "no code"))[:100]
    description = str(answer.get("error_description", ""))[:300]
    return SignInFailed(f"the provider answered {error}{description and f': {description}'}", error)


def _number(value: object, default: float, most: float) -> float:
    fit = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return min(float(value), most) if fit else default  # type: ignore[arg-type]  # it is a number
