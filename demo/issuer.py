"""A small OpenID Connect provider on a loopback port, for the demonstration and the tests.

Authlib does the protocol: the authorization code flow for one public client, with PKCE (RFC 7636, S256 only). Whoever
`login_hint` names is signed in without being asked for anything, so it must never be reachable from another machine.
"""

# Authlib has no type information, so its classes are of type Any.
# mypy: disallow-subclassing-any=False

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

import httpx
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge, create_s256_code_challenge
from authlib.oidc.core import AuthorizationCodeMixin, OpenIDCode
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from joserfc import jws, jwt
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

CLIENT_ID = "guardhouse"
REDIRECT_URI = "http://127.0.0.1/callback"
SCOPE = "openid email profile groups"
TOKEN_SECONDS = 600
CODE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account at the provider. The e-mail address is the subject, too, unless one is given."""

    email: str
    name: str = ""
    groups: tuple[str, ...] = ()
    subject: str = ""
    email_verified: bool = True

    @property
    def claims(self) -> dict[str, Any]:
        return {
            "sub": self.subject or self.email,
            "email": self.email,
            "email_verified": self.email_verified,
            "name": self.name,
            "groups": list(self.groups),
        }


class Issuer:
    """The provider, serving from `__enter__` to `__exit__`. `clock` gives seconds since the Unix epoch.

    For tests, `fetches` counts the requests by path, and `interfere` sees each path before the provider does and may
    answer in its place.
    """

    client_id = CLIENT_ID

    def __init__(
        self,
        people: Iterable[Person],
        port: int = 0,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - this is the place of a clock
    ) -> None:
        self.people = {person.email: person for person in people}
        self.clock = clock
        self.keys = [_new_key()]
        self.fetches: Counter[str] = Counter()
        self.interfere: Callable[[str], ResponseReturnValue | None] = lambda _path: None
        self._codes: dict[str, _Code] = {}
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", port, self._app(), threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05], name="issuer", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def sign_in(self, email: str, nonce: str | None = None) -> str:
        """The ID token that `email` gets by signing in as a client would: authorization code, PKCE, token request."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        query = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "state": state,
            "login_hint": email,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        if nonce is not None:
            query["nonce"] = nonce
        with httpx.Client(base_url=self.url, trust_env=False) as http:
            answer = parse_qs(urlsplit(http.get("/authorize", params=query).headers.get("location", "")).query)
            if answer.get("state") != [state] or "code" not in answer:
                raise PermissionError(f"{email} may not sign in: {answer.get('error', ['no answer'])[0]}")
            form = {
                "grant_type": "authorization_code",
                "client_id": CLIENT_ID,
                "redirect_uri": REDIRECT_URI,
                "code": answer["code"][0],
                "code_verifier": verifier,
            }
            return str(http.post("/token", data=form).raise_for_status().json()["id_token"])

    def claims(self, email: str) -> dict[str, Any]:
        """The claims of a token for `email` made now, for tests that spoil them and `sign` the result."""
        now = int(self.clock())
        return self._client_claims() | {"auth_time": now} | self.people[email].claims

    def sign(self, claims: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> str:
        """A token with any claims, under the current key; `headers` adds to the usual ones or replaces them."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid, **(headers or {})}, dict(claims), self.key)

    def sign_bytes(self, payload: bytes, headers: Mapping[str, Any] | None = None) -> str:
        """As `sign`, with a payload that need not be JSON."""
        return jws.serialize_compact({"alg": "RS256", "kid": self.key.kid, **(headers or {})}, payload, self.key)

    @property
    def key(self) -> RSAKey:
        return self.keys[-1]

    def rotate_key(self) -> None:
        """Sign with a new key from now on. The key before it stays published, older ones go."""
        self.keys = [self.key, _new_key()]

    @contextmanager
    def down(self) -> Iterator[None]:
        """Answer 503 to everything inside the block."""
        before, self.interfere = self.interfere, lambda _path: ("", 503)
        try:
            yield
        finally:
            self.interfere = before

    def _client_claims(self) -> dict[str, Any]:
        now = int(self.clock())
        return {
            "iss": self.url,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }

    def _app(self) -> Flask:
        issuer = self

        class CodeGrant(AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = ["none"]

            def save_authorization_code(self, code: str, request: Any) -> None:
                data = request.payload.data
                issuer._codes[code] = _Code(
                    person=request.user,
                    redirect_uri=request.payload.redirect_uri,
                    scope=request.payload.scope,
                    nonce=data.get("nonce"),
                    auth_time=int(issuer.clock()),
                    code_challenge=data["code_challenge"],
                    code_challenge_method=data["code_challenge_method"],
                )

            def query_authorization_code(self, code: str, client: Any) -> "_Code | None":
                # Taking the code out first makes it good for one attempt, also when two come at once.
                found = issuer._codes.pop(code, None)
                return found if found and issuer.clock() < found.auth_time + CODE_SECONDS else None

            def delete_authorization_code(self, authorization_code: "_Code") -> None:
                """It is gone since it was queried."""

            def authenticate_user(self, authorization_code: "_Code") -> Person:
                return authorization_code.person

        class IdToken(OpenIDCode):
            def exists_nonce(self, nonce: str, request: Any) -> bool:
                return False

            def resolve_client_private_key(self, client: Any) -> RSAKey:
                return issuer.key

            def get_encode_header(self, client: Any) -> dict[str, Any]:
                return {"alg": "RS256", "kid": issuer.key.kid}

            def get_client_claims(self, client: Any) -> dict[str, Any]:
                return issuer._client_claims()

            def generate_user_info(self, user: Person, scope: str) -> dict[str, Any]:
                return user.claims

        app = Flask("issuer")
        server = AuthorizationServer(app, lambda name: _Client() if name == CLIENT_ID else None, lambda *_: None)
        server.register_grant(CodeGrant, [_S256Required(), IdToken()])

        @app.before_request
        def interfere() -> ResponseReturnValue | None:
            with issuer._lock:
                issuer.fetches[request.path] += 1
            return issuer.interfere(request.path)

        @app.get("/.well-known/openid-configuration")
        def discovery() -> ResponseReturnValue:
            return jsonify(
                issuer=issuer.url,
                authorization_endpoint=f"{issuer.url}/authorize",
                token_endpoint=f"{issuer.url}/token",
                jwks_uri=f"{issuer.url}/jwks",
                scopes_supported=SCOPE.split(),
                response_types_supported=["code"],
                grant_types_supported=["authorization_code"],
                subject_types_supported=["public"],
                id_token_signing_alg_values_supported=["RS256"],
                token_endpoint_auth_methods_supported=["none"],
                code_challenge_methods_supported=["S256"],
            )

        @app.get("/jwks")
        def jwks() -> ResponseReturnValue:
            return jsonify(KeySet(list(issuer.keys)).as_dict())

        @app.get("/authorize")
        def authorize() -> Any:
            person = issuer.people.get(request.args.get("login_hint", ""))
            try:
                grant = server.get_consent_grant(end_user=person)
            except OAuth2Error as error:
                return server.handle_error_response(server.create_oauth2_request(None), error)
            return server.create_authorization_response(grant_user=person, grant=grant)

        @app.post("/token")
        def token() -> Any:
            return server.create_token_response()

        return app


@dataclass(frozen=True, slots=True)
class _Code(AuthorizationCodeMixin):
    """A sign-in that waits for its token request."""

    person: Person
    redirect_uri: str
    scope: str
    nonce: str | None
    auth_time: int
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time


class _Client(ClientMixin):
    """The one client: public, on the person's own machine, at any port (RFC 8252, section 7.3)."""

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return REDIRECT_URI

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(name for name in scope.split() if name in SCOPE.split())

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        parts = urlsplit(redirect_uri)
        return (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", "/callback")

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class _S256Required(CodeChallenge):
    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        # Left out, the method would mean "plain" (RFC 7636, section 4.3), and without either there would be no PKCE.
        if grant.request.payload.data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE with S256 is required", redirect_uri=redirect_uri)
        super().validate_code_challenge(grant, redirect_uri)


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Request lines hold authorization codes, so they are not logged."""


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
