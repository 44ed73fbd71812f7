"""Verification of OpenID Connect ID tokens, and the providers' keys that it needs (invariant I-30).

A token proves that a person has signed in just now at a provider that the organization trusts. Nothing in a token
chooses where its key comes from: the key set is the one that the configured issuer publishes, and a token may only name
a key in it.
"""

import asyncio
import hashlib
import ipaddress
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import httpx
import structlog
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import JWKRegistry, Key
from joserfc.util import base64_to_int, urlsafe_b64decode

from guardhouse.errors import IdentityProviderUnavailable, IdTokenInvalid

_log = structlog.get_logger(__name__)

SECOND = 1_000_000
SKEW = 60 * SECOND
"""How far a provider's clock may be from ours (I-30)."""
TOKEN_AGE = 300 * SECOND
"""How long after its `iat` a token counts as an authentication made now (decision 27)."""
KEYS_FRESH = 3600 * SECOND
KEYS_KEPT = 24 * 3600 * SECOND
"""How long a key set serves while its provider is down."""
UNKNOWN_KEY_INTERVAL = 30 * SECOND
"""One key set per interval is fetched because of tokens that name an unknown key, however many there are."""
RETRY_INTERVAL = 2 * SECOND
"""The least time from one attempt that failed to the next."""

TOKEN_BYTES = 16 << 10
DOCUMENT_BYTES = 256 << 10
FETCH_SECONDS = 3.0
ISSUERS = 1024
GROUPS = 1000
CLAIMS = 100
CLAIM_CHARACTERS = 1000
RSA_BITS = range(2048, 8193)
"""RFC 7518, section 3.3 sets the lower end; the upper one bounds what a check of a signature costs."""

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"})
_BRINGS_ITS_OWN_KEY = ("jku", "jwk", "x5c", "x5u")
_UNFIT_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LAST_INSTANT = 253_402_300_799  # The end of the year 9999, in seconds.


class Provider(Protocol):
    """An organization's identity provider, as far as its tokens go."""

    @property
    def issuer(self) -> str: ...

    @property
    def client_ids(self) -> tuple[str, ...]: ...

    @property
    def oidc_claims(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class IdentityClaims:
    """What an acceptable ID token says. Times are microseconds since the Unix epoch.

    `issue_time` may be up to a minute ahead of our clock. `email` is empty unless the provider has verified it.
    `token_hash` is the same for every spelling of one signed token, so a token that has been used is known again.
    `claims` has what the token says in the claims that the provider's `oidc_claims` name, as `name=value`.
    """

    issuer: str
    subject: str
    email: str
    name: str
    groups: tuple[str, ...]
    issue_time: int
    auth_time: int | None
    token_hash: bytes
    claims: tuple[str, ...] = ()


class Issuers:
    """The key sets of all identity providers, fetched when first needed and shared by the process.

    One event loop uses an object. It holds the issuers used last, at most `ISSUERS`.
    """

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(follow_redirects=False, headers={"accept-encoding": "identity"})
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._flights: set[asyncio.Task[None]] = set()

    async def verify(self, provider: Provider, id_token: str, now: int, nonce: str | None = None) -> IdentityClaims:
        """What `id_token` says, if `provider` made it for us at most five minutes ago (and with `nonce`, if given).

        Raises `IdTokenInvalid`, whose detail says why and never holds the token, and `IdentityProviderUnavailable` if
        the provider does not answer and the keys it published earlier are missing, too old, or without the token's key.
        """
        token = _Token.parse(id_token)
        claims = token.claims(await self._key(provider.issuer, token, now))
        return _identity(claims, provider, token.hash, now, nonce)

    async def close(self) -> None:
        for flight in self._flights:
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._http.aclose()

    async def _key(self, issuer: str, token: "_Token", now: int) -> Key:
        entry = self._entry(issuer)
        kept = _within(KEYS_KEPT, now, entry.fetched_at)
        if not _within(KEYS_FRESH, now, entry.fetched_at):
            flight = self._flight(issuer, entry, now)
            # While a provider is down, nobody waits for it who can be served from its last answer.
            if flight and not (kept and entry.failed_at is not None):
                await asyncio.shield(flight)
        if not _within(KEYS_KEPT, now, entry.fetched_at):
            raise _unavailable()
        if key := entry.find(token):
            return key
        if not _within(UNKNOWN_KEY_INTERVAL, now, entry.refetched_at):
            flight = self._flight(issuer, entry, now, unknown_key=True)
            if flight:
                await asyncio.shield(flight)
        if key := entry.find(token):
            return key
        if entry.failed_at is not None:
            # The key may be a new one, which the provider cannot tell us now.
            raise _unavailable()
        raise IdTokenInvalid(detail=f"the issuer has no key for kid {_shown(token.kid)} and alg {token.alg}")

    def _entry(self, issuer: str) -> "_Entry":
        entry = self._entries.setdefault(issuer, _Entry())
        self._entries.move_to_end(issuer)
        if len(self._entries) > ISSUERS:
            self._entries.popitem(last=False)
        return entry

    def _flight(self, issuer: str, entry: "_Entry", now: int, unknown_key: bool = False) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; none so soon after a failure. It outlives the caller that began it."""
        if entry.flight is None and not _within(RETRY_INTERVAL, now, entry.failed_at):
            entry.flight = asyncio.create_task(self._refresh(issuer, entry, now, unknown_key))
            self._flights.add(entry.flight)
            entry.flight.add_done_callback(self._flights.discard)
        return entry.flight

    async def _refresh(self, issuer: str, entry: "_Entry", now: int, unknown_key: bool) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                entry.keys = await self._fetch_keys(issuer)
            entry.fetched_at, entry.failed_at = now, None
            if unknown_key:
                entry.refetched_at = now
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            entry.failed_at = now
            _log.warning("identity provider unavailable", issuer=issuer, error=_shown(error, 200))
        finally:
            entry.flight = None

    async def _fetch_keys(self, issuer: str) -> tuple[Key, ...]:
        """The keys that `issuer` publishes (OIDC Discovery, section 4). Raises ValueError if they are unfit."""
        home = issuer_url(issuer)
        discovery = await self._fetch(_url(f"{issuer.rstrip('/')}/.well-known/openid-configuration"))
        if discovery.get("issuer") != issuer:
            raise ValueError(f"its discovery document is of issuer {_shown(discovery.get('issuer'))}")
        jwks_url = _url(discovery.get("jwks_uri"))
        if jwks_url.scheme != home.scheme:
            # Else a provider elsewhere could make us call plain-text services of our own machine.
            raise ValueError("its jwks_uri has another scheme than its issuer")
        return _usable_keys(await self._fetch(jwks_url))

    async def _fetch(self, url: httpx.URL) -> dict[str, Any]:
        async with self._http.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"{url} answered {response.status_code}")
            if "content-encoding" in response.headers:
                # A compressed answer was not asked for, and a small one may hold gigabytes.
                raise ValueError(f"{url} answered compressed")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > DOCUMENT_BYTES:
                    raise ValueError(f"{url} answered more than {DOCUMENT_BYTES} bytes")
        return _object(bytes(body))


@dataclass(eq=False, slots=True)
class _Entry:
    """What is known of one issuer. Times are microseconds.

    `failed_at` is when the last fetch began, if it failed; `refetched_at` when a token's unknown key last caused one.
    """

    keys: tuple[Key, ...] = ()
    fetched_at: int | None = None
    failed_at: int | None = None
    refetched_at: int | None = None
    flight: asyncio.Task[None] | None = None

    def find(self, token: "_Token") -> Key | None:
        """The token's key. A token may leave `kid` out only if there is no choice (OIDC Core, section 10.1)."""
        if token.kid is None:
            named = list(self.keys) if len(self.keys) == 1 else []
        else:
            named = [key for key in self.keys if key.kid == token.kid]
        return next((key for key in named if _suits(key, token.alg)), None)


@dataclass(frozen=True, slots=True)
class _Token:
    """A compact JWS (RFC 7515, section 7.1) whose header is acceptable and whose signature is not yet checked."""

    compact: str
    alg: str
    kid: str | None

    @classmethod
    def parse(cls, compact: str) -> "_Token":
        if len(compact) > TOKEN_BYTES:
            raise IdTokenInvalid(detail=f"longer than {TOKEN_BYTES} bytes")
        if not compact.isascii():
            raise IdTokenInvalid(detail="not ASCII")
        parts = compact.split(".")
        if len(parts) != 3:
            raise IdTokenInvalid(detail=f"not a compact JWS: {len(parts)} parts instead of 3")
        header = _part(parts[0], "header")
        alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(alg, str) or alg not in ALGORITHMS:
            raise IdTokenInvalid(detail=f"alg {_shown(alg)} is not allowed")
        for name in _BRINGS_ITS_OWN_KEY:
            if name in header:
                raise IdTokenInvalid(detail=f"the header brings its own key in {name}")
        for name in ("crit", "b64"):
            if name in header:
                raise IdTokenInvalid(detail=f"the header has {name}, which is not supported")
        if not isinstance(typ, str) or typ.lower() not in ("jwt", "application/jwt"):
            # Access and logout tokens come from the same keys and name themselves here (RFC 8725, section 3.11).
            raise IdTokenInvalid(detail=f"typ {_shown(typ)} is not an ID token's")
        if "kid" in header and not isinstance(kid, str):
            raise IdTokenInvalid(detail=f"kid {_shown(kid)} is not a string")
        return cls(compact, alg, kid)

    def claims(self, key: Key) -> dict[str, Any]:
        """The claims, once `key` has proved the signature."""
        try:
            jws.deserialize_compact(self.compact, key, registry=_REGISTRY)
        except BadSignatureError:
            raise IdTokenInvalid(detail=f"the signature is not that of kid {_shown(key.kid)}") from None
        except (JoseError, ValueError) as error:
            raise IdTokenInvalid(detail=f"not a sound JWS: {type(error).__name__}") from None
        return _part(self.compact.split(".")[1], "payload")

    @property
    def hash(self) -> bytes:
        """SHA-256 of what is signed. The signature stays out: anybody can make a second valid one from an ECDSA one."""
        return hashlib.sha256(self.compact.rpartition(".")[0].encode()).digest()


class _Registry(jws.JWSRegistry):
    """The allow-list once more, below the code that could forget it, and without joserfc's warning of EdDSA's name."""

    max_header_length = max_payload_length = max_signature_length = TOKEN_BYTES

    def get_alg(self, name: str) -> Any:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_REGISTRY = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def claimed_issuer(id_token: str) -> str:
    """The issuer that a token claims to be of; nothing is verified, so it may only choose among trusted providers.

    Raises `IdTokenInvalid`.
    """
    if len(id_token) > TOKEN_BYTES or not id_token.isascii() or id_token.count(".") != 2:
        raise IdTokenInvalid(detail="not a compact JWS")
    return _text(_part(id_token.split(".")[1], "payload"), "iss", 255)


def issuer_url(issuer: str) -> httpx.URL:
    """`issuer` as a URL. Raises ValueError unless it is an issuer identifier that we may fetch from.

    That is https without a query, a fragment or a user (OIDC Core, section 2), or http on this machine, for trials.
    """
    url = _url(issuer)
    if url.query or url.fragment or "?" in issuer or "#" in issuer:
        raise ValueError("an issuer has no query and no fragment")
    return url


def _url(text: object) -> httpx.URL:
    # The object that is checked here is the one that is fetched, so no second parser can read another host in it.
    try:
        url = httpx.URL(text) if isinstance(text, str) else httpx.URL()
    except httpx.InvalidURL:
        raise ValueError(f"not a URL: {_shown(text)}") from None
    private = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))
    if not private or url.userinfo or not url.host or (url.port or 0) > 65535:
        raise ValueError(f"not a URL of https or of this machine: {_shown(text)}")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _usable_keys(document: dict[str, Any]) -> tuple[Key, ...]:
    """The key set's public signature keys. What else is in it is passed over, as RFC 7517, section 5 has it."""
    members = document.get("keys")
    keys = [_usable_key(member) for member in members] if isinstance(members, list) else []
    usable = tuple(key for key in keys if key is not None)
    if not usable:
        raise ValueError("its key set has no usable key")
    return usable


def _usable_key(jwk: object) -> Key | None:
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or jwk.get("use", "sig") != "sig":
        return None
    try:
        if jwk["kty"] == "RSA" and base64_to_int(jwk["n"]).bit_length() not in RSA_BITS:
            return None
        key = JWKRegistry.import_key(jwk)
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    # Whoever can read the key set could sign with a private key in it.
    return None if key.is_private else key


def _suits(key: Key, alg: str) -> bool:
    try:
        _REGISTRY.get_alg(alg).check_key(key)
    except JoseError:
        return False
    return True


def _part(part: str, name: str) -> dict[str, Any]:
    try:
        text = urlsafe_b64decode(part.encode())
    except ValueError:
        raise IdTokenInvalid(detail=f"the {name} is malformed: not base64url") from None
    try:
        return _object(text)
    except ValueError as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise IdTokenInvalid(detail=f"the {name} is malformed: {reason}") from None


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError.

    A name that occurs twice is refused: two readers would not agree on which value counts (RFC 7519, section 4).
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _identity(
    claims: dict[str, Any], provider: Provider, token_hash: bytes, now: int, nonce: str | None
) -> IdentityClaims:
    """The checks of OIDC Core, section 3.1.3.7, on claims whose signature is good."""
    if claims.get("iss") != provider.issuer:
        raise IdTokenInvalid(detail=f"iss {_shown(claims.get('iss'))} is not the provider's")
    audiences = claims.get("aud")
    if isinstance(audiences, str):
        audiences = [audiences]
    if not isinstance(audiences, list) or not any(client_id in audiences for client_id in provider.client_ids):
        raise IdTokenInvalid(detail=f"aud {_shown(audiences)} has none of our client ids")
    if ("azp" in claims or len(audiences) > 1) and claims.get("azp") not in provider.client_ids:
        raise IdTokenInvalid(detail=f"azp {_shown(claims.get('azp'))} is none of our client ids")
    if "events" in claims:
        raise IdTokenInvalid(detail="events makes it a logout token (OIDC Back-Channel Logout, section 2.4)")
    if nonce is not None and claims.get("nonce") != nonce:
        raise IdTokenInvalid(detail="nonce is not the one we asked for")

    expire_time, issue_time = _instant(claims, "exp"), _instant(claims, "iat")
    not_before, auth_time = _instant(claims, "nbf"), _instant(claims, "auth_time")
    if expire_time is None or issue_time is None:
        raise IdTokenInvalid(detail=f"{'exp' if expire_time is None else 'iat'} is missing")
    if expire_time <= now - SKEW:
        raise IdTokenInvalid(detail=f"expired {_seconds(now - expire_time)} ago")
    if issue_time < now - TOKEN_AGE:
        raise IdTokenInvalid(detail=f"issued {_seconds(now - issue_time)} ago, which is too old")
    for name, instant in (("iat", issue_time), ("nbf", not_before), ("auth_time", auth_time)):
        if instant is not None and instant > now + SKEW:
            raise IdTokenInvalid(detail=f"{name} is {_seconds(instant - now)} ahead of our clock")

    subject = _text(claims, "sub", 255)
    if not subject or not subject.isascii():
        raise IdTokenInvalid(detail="sub is missing, empty or not ASCII")
    return IdentityClaims(
        issuer=provider.issuer,
        subject=subject,
        email=_text(claims, "email", 254) if claims.get("email_verified") is True else "",
        name=_text(claims, "name", 1024),
        groups=_groups(claims),
        issue_time=issue_time,
        auth_time=auth_time,
        token_hash=token_hash,
        claims=_claims(claims, provider.oidc_claims),
    )


def _instant(claims: dict[str, Any], name: str) -> int | None:
    """A NumericDate (RFC 7519, section 2), whole or not, in microseconds; None if there is none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_INSTANT:
        raise IdTokenInvalid(detail=f"{name} {_shown(value)} is not a time")
    return int(value * SECOND)


def _text(claims: dict[str, Any], name: str, limit: int) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > limit or _UNFIT_TEXT.search(value):
        raise IdTokenInvalid(detail=f"{name} is not a text of at most {limit} characters")
    return value


def _groups(claims: dict[str, Any]) -> tuple[str, ...]:
    """The names of the person's groups. A malformed list is refused: without it a policy that excludes would not."""
    groups = claims.get("groups", [])
    if not isinstance(groups, list) or len(groups) > GROUPS:
        raise IdTokenInvalid(detail=f"groups is not a list of at most {GROUPS} names")
    return tuple(_text({"groups": group}, "groups", 256) for group in groups)


def _claims(claims: dict[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """What the token says in the claims of these names, each value once, as `name=value`; too much is left out."""
    found: dict[str, None] = {}
    for name in names:
        value = claims.get(name)
        for part in value if isinstance(value, list) else [value]:
            if _is_plain(part):
                text = f"{name}={part if isinstance(part, str) else json.dumps(part)}"
                if len(text) <= CLAIM_CHARACTERS and not _UNFIT_TEXT.search(text):
                    found[text] = None
    return tuple(islice(found, CLAIMS))


def _is_plain(value: object) -> bool:
    """Whether it is a text, a number or a boolean; JSON has no infinite number, but one that is as good as that."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _within(span: int, now: int, instant: int | None) -> bool:
    # A clock that was set back must not keep an old answer alive, so the distance counts in both directions.
    return instant is not None and abs(now - instant) < span


def _unavailable() -> IdentityProviderUnavailable:
    return IdentityProviderUnavailable("the identity provider does not answer; try again", retry_after=2.0)


def _seconds(span: int) -> str:
    return f"{span // SECOND} s"


def _shown(value: object, limit: int = 64) -> str:
    """What a log may hold of a stranger's value: a little of it, in printable ASCII."""
    return ascii(value)[:limit]
