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
import socket
import ssl
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
CONNECT_SECONDS = 1.0
"""How long one of a host's addresses is tried before the next."""
ISSUERS = 1024
GROUPS = 1000
METHODS = 20
CLAIMS = 100
CLAIM_CHARACTERS = 1000
RSA_BITS = range(2048, 8193)
"""RFC 7518, section 3.3 sets the lower end; the upper one bounds what a check of a signature costs."""

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"})
_BRINGS_ITS_OWN_KEY = ("jku", "jwk", "x5c", "x5u")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
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

    @property
    def groups_claim(self) -> str: ...

    @property
    def allow_unverified_email(self) -> bool: ...

    @property
    def allow_private_addresses(self) -> bool: ...

    @property
    def jwks_host(self) -> str: ...


@dataclass(frozen=True, slots=True)
class IdentityClaims:
    """What an acceptable ID token says. Times are microseconds since the Unix epoch.

    `issue_time` may be up to a minute ahead of our clock. `email` is empty unless the provider has verified it, or need
    not have. `token_hash` is the same for every spelling of one signed token, so a token that has been used is known
    again. `claims` has what the token says in the claims that the provider's `oidc_claims` name, as `name=value`, and
    `methods` its `amr`: how the person proved who it is (RFC 8176).
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
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """An issuer, and where its documents may be fetched from. Who trusts less is not served what others fetched."""

    issuer: str
    jwks_host: str
    anywhere: bool


class Issuers:
    """The key sets of all identity providers, fetched when first needed and shared by the process.

    One event loop uses an object. It holds the issuers used last, at most `ISSUERS`.
    """

    def __init__(self) -> None:
        context = httpx.create_ssl_context()
        # What is behind a proxy of the environment is the proxy's to say, so no address could be checked there.
        self._direct, self._anywhere = (_client(context, trust_env=trusting) for trusting in (False, True))
        self._entries: OrderedDict[_Source, _Entry] = OrderedDict()
        self._flights: set[asyncio.Task[None]] = set()

    async def verify(self, provider: Provider, id_token: str, now: int, nonce: str | None = None) -> IdentityClaims:
        """What `id_token` says, if `provider` made it for us at most five minutes ago (and with `nonce`, if given).

        Raises `IdTokenInvalid`, whose detail says why and never holds the token, and `IdentityProviderUnavailable` if
        the provider does not answer and the keys it published earlier are missing, too old, or without the token's key.
        """
        token = _Token.parse(id_token)
        source = _Source(provider.issuer, provider.jwks_host, provider.allow_private_addresses)
        claims = token.claims(await self._key(source, token, now))
        return _identity(claims, provider, token.hash, now, nonce)

    async def close(self) -> None:
        for flight in self._flights:
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._direct.aclose()
        await self._anywhere.aclose()

    async def _key(self, source: _Source, token: "_Token", now: int) -> Key:
        entry = self._entry(source)
        kept = _within(KEYS_KEPT, now, entry.fetched_at)
        if not _within(KEYS_FRESH, now, entry.fetched_at):
            flight = self._flight(source, entry, now)
            # While a provider is down, nobody waits for it who can be served from its last answer.
            if flight and not (kept and entry.failed_at is not None):
                await asyncio.shield(flight)
        if not _within(KEYS_KEPT, now, entry.fetched_at):
            raise _unavailable()
        if key := entry.find(token):
            return key
        if not _within(UNKNOWN_KEY_INTERVAL, now, entry.refetched_at):
            flight = self._flight(source, entry, now, unknown_key=True)
            if flight:
                await asyncio.shield(flight)
        if key := entry.find(token):
            return key
        if entry.failed_at is not None:
            # The key may be a new one, which the provider cannot tell us now.
            raise _unavailable()
        raise IdTokenInvalid(detail=f"the issuer has no key for kid {_shown(token.kid)} and alg {token.alg}")

    def _entry(self, source: _Source) -> "_Entry":
        entry = self._entries.setdefault(source, _Entry())
        self._entries.move_to_end(source)
        if len(self._entries) > ISSUERS:
            self._entries.popitem(last=False)
        return entry

    def _flight(
        self, source: _Source, entry: "_Entry", now: int, unknown_key: bool = False
    ) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; none so soon after a failure. It outlives the caller that began it."""
        if entry.flight is None and not _within(RETRY_INTERVAL, now, entry.failed_at):
            entry.flight = asyncio.create_task(self._refresh(source, entry, now, unknown_key))
            self._flights.add(entry.flight)
            entry.flight.add_done_callback(self._flights.discard)
        return entry.flight

    async def _refresh(self, source: _Source, entry: "_Entry", now: int, unknown_key: bool) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                entry.keys = await self._fetch_keys(source)
            entry.fetched_at, entry.failed_at = now, None
            if unknown_key:
                entry.refetched_at = now
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            entry.failed_at = now
            _log.warning("identity provider unavailable", issuer=source.issuer, error=_shown(error, 200))
        finally:
            entry.flight = None

    async def _fetch_keys(self, source: _Source) -> tuple[Key, ...]:
        """The keys that an issuer publishes (OIDC Discovery, section 4). Raises ValueError if they are unfit."""
        home = issuer_url(source.issuer)
        discovery = await self._fetch(_url(f"{source.issuer.rstrip('/')}/.well-known/openid-configuration"), source)
        if discovery.get("issuer") != source.issuer:
            raise ValueError(f"its discovery document is of issuer {_shown(discovery.get('issuer'))}")
        jwks_url = _url(discovery.get("jwks_uri"))
        if jwks_url.scheme != home.scheme:
            # Else a provider elsewhere could make us call plain-text services of our own machine.
            raise ValueError("its jwks_uri has another scheme than its issuer")
        if not source.anywhere and jwks_url.raw_host not in (home.raw_host, source.jwks_host.encode()):
            raise ValueError(f"its keys are at another host, {_shown(jwks_url.host)}, which jwks_host does not name")
        return _usable_keys(await self._fetch(jwks_url, source))

    async def _fetch(self, url: httpx.URL, source: _Source) -> dict[str, Any]:
        """The document at `url`, from any of its host's addresses. Raises ValueError where none may be asked.

        The address that was checked is the one that is asked, so that no second look at DNS can answer another.
        """
        if source.anywhere:
            return await _get(self._anywhere, url)
        if _is_loopback(url.host) and url.host == issuer_url(source.issuer).host:
            return await _get(self._direct, url)
        host = url.raw_host.decode()
        headers, extensions = {"host": url.netloc.decode()}, {"sni_hostname": host}
        *others, last = await _public_addresses(host)
        for address in others:
            try:
                return await _get(self._direct, url.copy_with(host=address), headers, extensions)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await _get(self._direct, url.copy_with(host=last), headers, extensions)


def _client(context: ssl.SSLContext, trust_env: bool) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=context,
        trust_env=trust_env,
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
        timeout=httpx.Timeout(FETCH_SECONDS, connect=CONNECT_SECONDS),
        # A connection is known by its address, and one to another host there must not be taken for this one's.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


async def _get(
    http: httpx.AsyncClient,
    url: httpx.URL,
    headers: dict[str, str] | None = None,
    extensions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object at `url`. Raises httpx.HTTPError, and ValueError for any other answer."""
    async with http.stream("GET", url, headers=headers, extensions=extensions) as response:
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


def host_name(text: str) -> str:
    """`text`, if it is a host's name in its normal form, or an address. Raises ValueError."""
    if _url(f"https://{text}").raw_host.decode() != text:
        raise ValueError(f"not the name of a host: {_shown(text)}")
    return text


async def _public_addresses(host: str) -> list[str]:
    """Where a host is, at least one address. Raises ValueError when one of them is not of the public internet.

    A host that is in a private network as well could be there alone the next time, and what is there is not asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if not _is_public(address):
            raise ValueError(f"{host} is at {address}, which is no public address: allow_private_addresses allows it")
    return addresses


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        # An IPv4 address in IPv6's clothes leads to where that one is (RFC 4291, RFC 3056 and RFC 6052).
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if inner is not None and not inner.is_global:
            return False
    return parsed.is_global and not parsed.is_multicast


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
    is_verified = claims.get("email_verified") is True
    return IdentityClaims(
        issuer=provider.issuer,
        subject=subject,
        email=_text(claims, "email", 254) if is_verified or provider.allow_unverified_email else "",
        name=_text(claims, "name", 1024),
        groups=_groups(claims, provider.groups_claim),
        issue_time=issue_time,
        auth_time=auth_time,
        token_hash=token_hash,
        claims=_claims(claims, provider.oidc_claims),
        methods=_methods(claims),
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


def _groups(claims: dict[str, Any], path: str) -> tuple[str, ...]:
    """The names of the person's groups. A malformed list is refused: without it a policy that excludes would not.

    So is a token that says that they are to be asked for elsewhere (OIDC Core, section 5.6.2), as Entra ID does of a
    person with more than 200 groups.
    """
    elsewhere = claims.get("_claim_names", {})
    if not isinstance(elsewhere, dict) or path in elsewhere or path.partition(".")[0] in elsewhere:
        raise IdTokenInvalid(detail=f"{path} is not in the token, which says to ask for it elsewhere")
    return _texts(_at(claims, path), path, GROUPS, 256)


def _at(value: object, path: str) -> object:
    """What is at a name, or at a dotted path into objects; an empty list where nothing is."""
    if not isinstance(value, dict):
        return value
    if path in value:
        return value[path]
    name, _, rest = path.partition(".")
    return _at(value[name], rest) if rest and name in value else []


def _methods(claims: dict[str, Any]) -> tuple[str, ...]:
    """The `amr`. A malformed one is refused, as a policy may rest upon it; some providers send a single one bare."""
    methods = claims.get("amr", [])
    return _texts([methods] if isinstance(methods, str) else methods, "amr", METHODS, 100)


def _texts(value: object, name: str, limit: int, characters: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limit:
        raise IdTokenInvalid(detail=f"{name} is not a list of at most {limit} names")
    return tuple(_text({name: each}, name, characters) for each in value)


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
