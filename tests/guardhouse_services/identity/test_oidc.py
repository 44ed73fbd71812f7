"""ID tokens, against a real provider over HTTP. The clock of both sides stands still unless a test moves it."""

import asyncio
import base64
import gzip
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flask import Response, request
from flask.typing import ResponseReturnValue
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey
from structlog.testing import capture_logs

from demo.issuer import CLIENT_ID, Issuer
from guardhouse.errors import IdentityProviderUnavailable, IdTokenInvalid
from guardhouse_services.identity import oidc
from guardhouse_services.identity.oidc import IdentityClaims, Issuers, issuer_url
from tests.guardhouse_services.identity.bad_tokens import ADA, BAD_TOKENS, CAROL, encoded, signed

SECONDS = 1_800_000_000
NOW = SECONDS * 1_000_000
SECOND = 1_000_000


@dataclass(frozen=True)
class Trusted:
    issuer: str
    client_ids: tuple[str, ...] = ("guardhouse-cli", CLIENT_ID)
    oidc_claims: tuple[str, ...] = ()
    groups_claim: str = "groups"
    allow_unverified_email: bool = False
    allow_private_addresses: bool = False
    jwks_host: str = ""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer([ADA, CAROL], clock=lambda: SECONDS) as issuer:
        # Two keys are published from the start, so that a token must say which one it means.
        issuer.rotate_key()
        yield issuer


@pytest.fixture(scope="module")
def stranger() -> Iterator[Issuer]:
    with Issuer([ADA], clock=lambda: SECONDS) as stranger:
        yield stranger


@pytest.fixture(autouse=True)
def behave(issuer: Issuer) -> Iterator[None]:
    yield
    issuer.interfere = lambda _path: None


@pytest.fixture
async def issuers() -> AsyncIterator[Issuers]:
    issuers = Issuers()
    yield issuers
    await issuers.close()


def fetches(issuer: Issuer) -> int:
    return issuer.fetches["/jwks"]


def publish(issuer: Issuer, *keys: Key | dict[str, Any]) -> None:
    """Let `issuer` publish these keys instead of its own."""
    jwks = {"keys": [key if isinstance(key, dict) else key.as_dict() for key in keys]}
    issuer.interfere = lambda path: jwks if path == "/jwks" else None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm_issuers() -> AsyncIterator[Issuers]:
    """For the tests in which it does not matter what was fetched before: a new HTTP client takes a while."""
    issuers = Issuers()
    yield issuers
    await issuers.close()


# What is accepted.


async def test_accepts_a_sign_in(issuer: Issuer, issuers: Issuers) -> None:
    identity = await issuers.verify(Trusted(issuer.url), issuer.sign_in(ADA.email, nonce="n-1"), NOW, "n-1")
    assert identity == IdentityClaims(
        issuer=issuer.url,
        subject="u-1",
        email="ada@example.com",
        name="Ada",
        groups=("engineering", "on-call"),
        issue_time=NOW,
        auth_time=NOW,
        token_hash=identity.token_hash,
    )


async def test_the_claims_that_the_provider_names_are_taken(issuer: Issuer, issuers: Issuers) -> None:
    """As JSON has them, each value once and in order; what is no text, number or boolean is left out, as is what would
    be too long or holds a control character."""
    said = {
        "department": ["engineering", "sales", "engineering", ["nested"], {"of": 1}, None, "", "a=b="],
        "level": 7,
        "ratio": 0.5,
        "huge": [10**400, 1e308],
        "staff": True,
        "nothing": None,
        "object": {"of": 1},
        "unfit": ["a\nb", "v" * 995],
        "long": "v" * 995,
        "unnamed": "x",
    }
    names = ("department", "level", "ratio", "huge", "staff", "nothing", "object", "unfit", "long", "missing", "level")
    trusted = Trusted(issuer.url, oidc_claims=names)
    identity = await issuers.verify(trusted, issuer.sign(issuer.claims(ADA.email) | said), NOW)
    assert identity.claims == (
        *("department=engineering", "department=sales", "department=", "department=a=b="),
        *("level=7", "ratio=0.5", f"huge={10**400}", "huge=1e+308", "staff=true", "long=" + "v" * 995),
    )
    many = issuer.sign(issuer.claims(ADA.email) | {"level": list(range(200))})
    identity = await issuers.verify(trusted, many, NOW)
    assert identity.claims == tuple(f"level={number}" for number in range(100))
    # JSON writes no infinite number, and a reader makes one of this.
    endless = json.dumps(issuer.claims(ADA.email) | {"level": 1}).replace('"level": 1', '"level": 1e999')
    identity = await issuers.verify(trusted, issuer.sign_bytes(endless.encode()), NOW)
    assert identity.claims == ()


async def test_an_unverified_email_is_not_taken(issuer: Issuer, issuers: Issuers) -> None:
    for verified in (False, None, "true", 1):
        token = issuer.sign(issuer.claims(CAROL.email) | {"email_verified": verified})
        assert (await issuers.verify(Trusted(issuer.url), token, NOW)).email == ""


async def test_an_unverified_email_is_taken_from_a_provider_that_need_not_verify_it(
    issuer: Issuer, issuers: Issuers
) -> None:
    trusted = Trusted(issuer.url, allow_unverified_email=True)
    claims = issuer.claims(CAROL.email)
    for said in (claims, {name: claims[name] for name in claims if name != "email_verified"}):
        assert (await issuers.verify(trusted, issuer.sign(said), NOW)).email == "carol@example.com"


async def test_groups_are_where_the_provider_says(issuer: Issuer, issuers: Issuers) -> None:
    """A claim by its name, dots and all, or a path into objects; none there is none, and what is no list is refused."""
    said = {
        "realm_access": {"roles": ["staff"], "flat": "staff"},
        "https://idp.example/groups": ["whole"],
        "a": {"b.c": ["dotted"], "b": {"c": ["deeper"]}},
    }
    token = issuer.sign(issuer.claims(ADA.email) | said)
    for path, groups in (
        ("groups", ("engineering", "on-call")),
        ("realm_access.roles", ("staff",)),
        ("https://idp.example/groups", ("whole",)),
        ("a.b.c", ("dotted",)),
        *((missing, ()) for missing in ("teams", "realm_access.teams", "realm_access.", "teams.roles", ".", "a.b.d")),
    ):
        trusted = Trusted(issuer.url, groups_claim=path)
        assert (await issuers.verify(trusted, token, NOW)).groups == groups, path
    for path in ("realm_access", "realm_access.flat", "realm_access.flat.more", "sub", "a.b"):
        with pytest.raises(IdTokenInvalid) as caught:
            await issuers.verify(Trusted(issuer.url, groups_claim=path), token, NOW)
        check_refusal(caught.value, token, f"{path} is not a list")


async def test_groups_that_are_elsewhere_are_refused_by_their_path(issuer: Issuer, issuers: Issuers) -> None:
    """Without them an exclusion would not match. Other claims may be elsewhere."""
    token = issuer.sign(issuer.claims(ADA.email) | {"_claim_names": {"realm_access": "src1"}})
    with pytest.raises(IdTokenInvalid) as caught:
        await issuers.verify(Trusted(issuer.url, groups_claim="realm_access.roles"), token, NOW)
    check_refusal(caught.value, token, "realm_access.roles is not in the token")
    assert (await issuers.verify(Trusted(issuer.url), token, NOW)).groups == ("engineering", "on-call")


async def test_how_somebody_signed_in_is_taken(issuer: Issuer, issuers: Issuers) -> None:
    """The amr of RFC 8176, which some providers send as one text."""
    said: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({}, ()),
        ({"amr": []}, ()),
        ({"amr": ["pwd", "otp", "mfa"]}, ("pwd", "otp", "mfa")),
        ({"amr": "hwk"}, ("hwk",)),
    ]
    for claims, methods in said:
        token = issuer.sign(issuer.claims(ADA.email) | claims)
        assert (await issuers.verify(Trusted(issuer.url), token, NOW)).methods == methods


async def test_only_sub_iss_aud_exp_and_iat_are_needed(issuer: Issuer, issuers: Issuers) -> None:
    claims = {name: issuer.claims(ADA.email)[name] for name in ("iss", "aud", "sub", "exp", "iat")}
    identity = await issuers.verify(Trusted(issuer.url), issuer.sign(claims), NOW)
    assert (identity.email, identity.name, identity.groups, identity.auth_time) == ("", "", (), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", CLIENT_ID], "azp": CLIENT_ID},
        {"aud": [CLIENT_ID]},
        {"azp": "guardhouse-cli"},
        {"iat": SECONDS + 60, "nbf": SECONDS + 60},
        {"iat": SECONDS - 300, "exp": SECONDS - 59},
        {"iat": SECONDS - 0.5},
        {"nonce": "nobody asked"},
        {"unheard_of": {"of": [1, 2]}},
    ],
)
async def test_accepts_the_edges(issuer: Issuer, issuers: Issuers, changes: dict[str, Any]) -> None:
    await issuers.verify(Trusted(issuer.url), issuer.sign(issuer.claims(ADA.email) | changes), NOW)


async def test_unknown_header_members_are_ignored(issuer: Issuer, issuers: Issuers) -> None:
    registry = jws.JWSRegistry(strict_check_header=False)
    header = {"alg": "RS256", "kid": issuer.key.kid, "nonce": "x", "x5t": "x"}
    token = jws.serialize_compact(header, json.dumps(issuer.claims(ADA.email)), issuer.key, registry=registry)
    await issuers.verify(Trusted(issuer.url), token, NOW)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("alg", sorted(oidc.ALGORITHMS))
async def test_every_allowed_algorithm_works(issuer: Issuer, issuers: Issuers, alg: str) -> None:
    key: Key = RSAKey.generate_key(2048, auto_kid=True)
    if alg.startswith("ES"):
        key = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[alg], auto_kid=True)
    elif alg == "EdDSA":
        key = OKPKey.generate_key("Ed25519", auto_kid=True)
    publish(issuer, issuer.key, key)
    token = signed(key, alg, issuer.claims(ADA.email))
    assert (await issuers.verify(Trusted(issuer.url), token, NOW)).subject == "u-1"


async def test_a_token_without_kid_is_accepted_if_there_is_one_key(issuer: Issuer, issuers: Issuers) -> None:
    publish(issuer, issuer.key)
    token = jwt.encode({"alg": "RS256"}, issuer.claims(ADA.email), issuer.key)
    await issuers.verify(Trusted(issuer.url), token, NOW)


async def test_each_sign_in_has_another_hash(issuer: Issuer, issuers: Issuers) -> None:
    tokens = [issuer.sign_in(ADA.email) for _ in range(3)]
    hashes = {(await issuers.verify(Trusted(issuer.url), token, NOW)).token_hash for token in [*tokens, tokens[0]]}
    assert len(hashes) == 3


async def test_a_second_signature_does_not_make_a_second_token(issuer: Issuer, issuers: Issuers) -> None:
    """From an ECDSA signature (r, s) anybody can make (r, n - s), which is as good."""
    key = ECKey.generate_key("P-256", auto_kid=True)
    publish(issuer, issuer.key, key)
    token = signed(key, "ES256", issuer.claims(ADA.email))
    content, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(encode_dss_signature(int.from_bytes(raw[:32]), order - int.from_bytes(raw[32:])))
    twin = f"{content}.{encoded(r.to_bytes(32) + s.to_bytes(32))}"
    assert twin != token
    first = await issuers.verify(Trusted(issuer.url), token, NOW)
    assert (await issuers.verify(Trusted(issuer.url), twin, NOW)).token_hash == first.token_hash


# What is refused.


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_refuses(issuer: Issuer, warm_issuers: Issuers, name: str) -> None:
    make, detail = BAD_TOKENS[name]
    token = make(issuer)
    with pytest.raises(IdTokenInvalid) as caught:
        await warm_issuers.verify(Trusted(issuer.url), token, NOW)
    check_refusal(caught.value, token, detail)


async def test_refuses_another_providers_tokens(issuer: Issuer, stranger: Issuer, issuers: Issuers) -> None:
    for token, detail in [
        (stranger.sign_in(ADA.email), "no key for kid"),
        (stranger.sign(issuer.claims(ADA.email)), "no key for kid"),
        (stranger.sign(issuer.claims(ADA.email), {"kid": issuer.key.kid}), "the signature"),
    ]:
        with pytest.raises(IdTokenInvalid) as caught:
            await issuers.verify(Trusted(issuer.url), token, NOW)
        check_refusal(caught.value, token, detail)


async def test_refuses_another_nonce(issuer: Issuer, issuers: Issuers) -> None:
    for nonce in ("other", "", None):
        token = issuer.sign_in(ADA.email, nonce)
        with pytest.raises(IdTokenInvalid) as caught:
            await issuers.verify(Trusted(issuer.url), token, NOW, "n-1")
        check_refusal(caught.value, token, "nonce")


async def test_refuses_everything_without_a_client_id(issuer: Issuer, issuers: Issuers) -> None:
    audiences: list[Any] = [CLIENT_ID, "", []]
    for audience in audiences:
        token = issuer.sign(issuer.claims(ADA.email) | {"aud": audience})
        with pytest.raises(IdTokenInvalid, match="not acceptable"):
            await issuers.verify(Trusted(issuer.url, ()), token, NOW)


def check_refusal(error: IdTokenInvalid, token: str, detail: str) -> None:
    assert str(error) == "the ID token is not acceptable"
    assert not error.metadata
    assert detail in error.detail
    assert error.detail.isascii()
    assert error.detail.isprintable()
    assert len(error.detail) < 160
    for part in token.split("."):
        assert len(part) < 16 or part[:16] not in error.detail


# Keys.


async def test_keys_are_fetched_once(issuer: Issuer, issuers: Issuers) -> None:
    before = fetches(issuer)
    tokens = [issuer.sign(issuer.claims(ADA.email)) for _ in range(100)]
    await asyncio.gather(*(issuers.verify(Trusted(issuer.url), token, NOW) for token in tokens))
    assert fetches(issuer) == before + 1


async def test_a_rotated_key_is_picked_up_on_first_use(issuer: Issuer, issuers: Issuers) -> None:
    old = issuer.sign_in(ADA.email)
    await issuers.verify(Trusted(issuer.url), old, NOW)
    before = fetches(issuer)
    issuer.rotate_key()
    tokens = [old] + [issuer.sign_in(ADA.email) for _ in range(20)]
    await asyncio.gather(*(issuers.verify(Trusted(issuer.url), token, NOW) for token in tokens))
    assert fetches(issuer) == before + 1


async def test_a_withdrawn_key_is_refused_within_the_hour(issuer: Issuer, issuers: Issuers) -> None:
    later = SECONDS + 3600
    token = issuer.sign(issuer.claims(ADA.email) | {"iat": later, "exp": later + 60})
    await issuers.verify(Trusted(issuer.url), issuer.sign_in(ADA.email), NOW)
    issuer.rotate_key()
    issuer.rotate_key()
    with pytest.raises(IdTokenInvalid) as caught:
        await issuers.verify(Trusted(issuer.url), token, later * SECOND)
    assert "no key for kid" in caught.value.detail


async def test_unknown_keys_cause_no_storm_of_fetches(issuer: Issuer, issuers: Issuers) -> None:
    await issuers.verify(Trusted(issuer.url), issuer.sign_in(ADA.email), NOW)
    before = fetches(issuer)

    async def attempt(number: int, now: int) -> None:
        token = issuer.sign(issuer.claims(ADA.email), {"kid": f"unknown-{number}"})
        with pytest.raises(IdTokenInvalid):
            await issuers.verify(Trusted(issuer.url), token, now)

    await asyncio.gather(*(attempt(number, NOW + number) for number in range(100)))
    for number in range(29):
        await attempt(number, NOW + number * SECOND)
    assert fetches(issuer) == before + 1
    await attempt(0, NOW + 31 * SECOND)
    assert fetches(issuer) == before + 2


async def test_a_provider_that_is_down_without_keys(issuer: Issuer, issuers: Issuers) -> None:
    token = issuer.sign_in(ADA.email)
    path = "/.well-known/openid-configuration"

    async def attempt(now: int) -> None:
        with pytest.raises(IdentityProviderUnavailable) as caught:
            await issuers.verify(Trusted(issuer.url), token, now)
        assert caught.value.retry_after == 2.0

    with issuer.down():
        before = issuer.fetches[path]
        await asyncio.gather(*(attempt(NOW) for _ in range(50)))
        await attempt(NOW + SECOND)
        assert issuer.fetches[path] == before + 1
        await attempt(NOW + 3 * SECOND)
        assert issuer.fetches[path] == before + 2
    assert (await issuers.verify(Trusted(issuer.url), token, NOW + 6 * SECOND)).subject == "u-1"


async def test_a_provider_that_is_down_with_keys(issuer: Issuer, issuers: Issuers) -> None:
    hour = 3600

    async def attempt(seconds: int, **header: str) -> None:
        later = issuer.claims(ADA.email) | {"iat": seconds, "exp": seconds + 60, "auth_time": seconds}
        await issuers.verify(Trusted(issuer.url), issuer.sign(later, header), seconds * SECOND)

    await attempt(SECONDS)
    with issuer.down():
        for hours in (1, 2, 12, 23):
            await attempt(SECONDS + hours * hour)
        with pytest.raises(IdentityProviderUnavailable):
            await attempt(SECONDS + 23 * hour + 10, kid="perhaps a new key")
        with pytest.raises(IdentityProviderUnavailable):
            await attempt(SECONDS + 24 * hour)
    await attempt(SECONDS + 24 * hour + 10)


async def test_nobody_waits_for_a_provider_that_is_known_to_hang(issuer: Issuer, issuers: Issuers) -> None:
    def token(seconds: int) -> str:
        return issuer.sign(issuer.claims(ADA.email) | {"iat": seconds, "exp": seconds + 60})

    await issuers.verify(Trusted(issuer.url), token(SECONDS), NOW)
    later = SECONDS + 7200
    with issuer.down():
        await issuers.verify(Trusted(issuer.url), token(later), later * SECOND)
    verified, hung = threading.Event(), []

    def hang(_path: str) -> None:
        hung.append(not verified.wait(10))

    issuer.interfere = hang
    await issuers.verify(Trusted(issuer.url), token(later), (later + 10) * SECOND)
    verified.set()
    assert not any(hung)


async def test_a_caller_who_leaves_does_not_take_the_fetch_along(issuer: Issuer, issuers: Issuers) -> None:
    token = issuer.sign_in(ADA.email)
    issuer.interfere = lambda _path: time.sleep(0.1)
    first, second = (asyncio.create_task(issuers.verify(Trusted(issuer.url), token, NOW)) for _ in range(2))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).subject == "u-1"


async def test_the_number_of_issuers_held_is_bounded(
    issuer: Issuer, stranger: Issuer, issuers: Issuers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "ISSUERS", 1)
    before = fetches(issuer)
    for one in (issuer, stranger, issuer):
        await issuers.verify(Trusted(one.url), one.sign_in(ADA.email), NOW)
    assert fetches(issuer) == before + 2


def answer(path: str, response: Any) -> Callable[[Issuer], Callable[[str], ResponseReturnValue | None]]:
    def bind(issuer: Issuer) -> Callable[[str], ResponseReturnValue | None]:
        return lambda asked: (response(issuer) if callable(response) else response) if asked == path else None

    return bind


DISCOVERY = "/.well-known/openid-configuration"
BIG = json.dumps({"keys": [], "pad": "x" * oidc.DOCUMENT_BYTES})
GZIPPED = gzip.compress(BIG.encode())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (answer(DISCOVERY, lambda issuer: {"issuer": "https://evil.example", "jwks_uri": issuer.url}), "of issuer"),
        (answer(DISCOVERY, lambda issuer: {"issuer": f"{issuer.url}/", "jwks_uri": issuer.url}), "of issuer"),
        (answer(DISCOVERY, lambda issuer: {"issuer": issuer.url}), "not a URL"),
        (answer(DISCOVERY, lambda issuer: {"issuer": issuer.url, "jwks_uri": "http://192.0.2.1/jwks"}), "not a URL of"),
        (answer(DISCOVERY, lambda issuer: {"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"}), "not a URL of"),
        (answer(DISCOVERY, lambda issuer: {"issuer": issuer.url, "jwks_uri": "https://[::1]:1/"}), "another scheme"),
        (answer(DISCOVERY, lambda issuer: {"issuer": issuer.url, "jwks_uri": ["/jwks"]}), "not a URL"),
        (answer(DISCOVERY, "not JSON"), "JSONDecodeError"),
        (answer(DISCOVERY, ("", 404)), "answered 404"),
        (answer(DISCOVERY, ("", 302, {"location": "/elsewhere"})), "answered 302"),
        (answer("/jwks", ("", 307, {"location": "/elsewhere"})), "answered 307"),
        (answer("/jwks", BIG), "answered more than"),
        (answer("/jwks", lambda _: Response(GZIPPED, headers={"content-encoding": "gzip"})), "answered compressed"),
        (answer("/jwks", {"keys": []}), "no usable key"),
        (answer("/jwks", {"keys": {}}), "no usable key"),
        (answer("/jwks", "[" * 100_000), "nested too deeply"),
        (answer("/jwks", '{"keys": [], "keys": []}'), "a name occurs twice"),
    ],
)
async def test_unfit_documents_make_a_provider_unavailable(
    issuer: Issuer, issuers: Issuers, bad: Any, reason: str
) -> None:
    token = issuer.sign_in(ADA.email)
    issuer.interfere = bad(issuer)
    before = issuer.fetches["/elsewhere"]
    with capture_logs() as logs, pytest.raises(IdentityProviderUnavailable):
        await issuers.verify(Trusted(issuer.url), token, NOW)
    assert [log["issuer"] for log in logs] == [issuer.url]
    assert reason in logs[0]["error"]
    assert issuer.fetches["/elsewhere"] == before


async def test_an_issuer_may_end_with_a_slash(issuer: Issuer, issuers: Issuers) -> None:
    url = f"{issuer.url}/"
    issuer.interfere = answer(DISCOVERY, {"issuer": url, "jwks_uri": f"{issuer.url}/jwks"})(issuer)
    await issuers.verify(Trusted(url), issuer.sign(issuer.claims(ADA.email) | {"iss": url}), NOW)


async def test_no_compressed_documents_are_asked_for(issuer: Issuer, issuers: Issuers) -> None:
    asked: list[str] = []
    issuer.interfere = lambda _path: asked.append(request.headers["accept-encoding"])
    await issuers.verify(Trusted(issuer.url), issuer.sign(issuer.claims(ADA.email)), NOW)
    assert asked == ["identity", "identity"]


async def test_a_provider_that_hangs(issuer: Issuer, issuers: Issuers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "FETCH_SECONDS", 0.05)
    token = issuer.sign_in(ADA.email)
    issuer.interfere = lambda _path: time.sleep(0.2)
    with pytest.raises(IdentityProviderUnavailable):
        await issuers.verify(Trusted(issuer.url), token, NOW)


def unusable_keys(key: RSAKey) -> Sequence[dict[str, Any]]:
    public: dict[str, Any] = dict(key.as_dict())
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    return [
        {"kty": "oct", "kid": key.kid, "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": key.kid, "n": encoded(numbers.n.to_bytes(128)), "e": "AQAB"},
        {"kty": "unheard of", "kid": key.kid},
        {"kty": ["RSA"], "kid": key.kid},
        {"kty": "RSA", "kid": key.kid},
        {"kty": "RSA", "kid": key.kid, "n": 5, "e": 5},
        {"kty": "OKP", "kid": key.kid, "crv": "Ed999", "x": "AA"},
        {"kty": "EC", "kid": key.kid, "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": key.kid, "crv": "P-256", "x": "AA", "y": "AA"},
        public | {"use": "enc"},
        public | {"e": "AQ"},
        dict(key.as_dict(private=True)),
    ]


async def test_unusable_keys_are_passed_over(issuer: Issuer, issuers: Issuers) -> None:
    token = issuer.sign_in(ADA.email)
    publish(issuer, *unusable_keys(issuer.key), issuer.key)
    assert (await issuers.verify(Trusted(issuer.url), token, NOW)).subject == "u-1"


async def test_a_set_of_unusable_keys_is_no_set(issuer: Issuer) -> None:
    token = issuer.sign_in(ADA.email)
    for key in unusable_keys(issuer.key):
        publish(issuer, key)
        issuers = Issuers()
        with pytest.raises(IdentityProviderUnavailable):
            await issuers.verify(Trusted(issuer.url), token, NOW)
        await issuers.close()


async def test_a_key_that_may_not_verify_is_not_used(issuer: Issuer, issuers: Issuers) -> None:
    token = issuer.sign_in(ADA.email)
    key: dict[str, Any] = {name: value for name, value in issuer.key.as_dict().items() if name != "use"}
    publish(issuer, key | {"key_ops": ["encrypt"]})
    with pytest.raises(IdTokenInvalid):
        await issuers.verify(Trusted(issuer.url), token, NOW)


@pytest.mark.parametrize("issuer_", ["https://idp.example", "https://10.0.0.1:8443/realms/a", "http://[::1]:80"])
def test_issuers_that_may_be_configured(issuer_: str) -> None:
    assert str(issuer_url(issuer_)).startswith(issuer_[:6])


@pytest.mark.parametrize(
    "issuer_",
    [
        "",
        "idp.example",
        "http://idp.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1@evil.example",
        "http://127.0.0.1\\@evil.example",
        "https://user:password@idp.example",
        "https://idp.example?a=b",
        "https://idp.example#",
        "https://idp.example?",
        "https://",
        "https://idp.example:99999999",
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "https://idp.example\n",
    ],
)
def test_issuers_that_may_not_be_configured(issuer_: str) -> None:
    with pytest.raises(ValueError, match=r"URL|query"):
        issuer_url(issuer_)


# The provider that these tests rest upon.


def authorize(issuer: Issuer, **changes: str | None) -> httpx.URL:
    query = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": "http://127.0.0.1:4321/callback",
        "scope": "openid",
        "login_hint": ADA.email,
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        "code_challenge_method": "S256",
    } | changes
    found = httpx.get(f"{issuer.url}/authorize", params={key: value for key, value in query.items() if value})
    return httpx.URL(found.headers.get("location", ""))


def exchange(issuer: Issuer, code: str, **changes: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "redirect_uri": "http://127.0.0.1:4321/callback",
        "code": code,
        "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    }
    return httpx.post(f"{issuer.url}/token", data=form | changes)


def test_the_provider_gives_a_token_once(issuer: Issuer) -> None:
    code = authorize(issuer).params["code"]
    assert "id_token" in exchange(issuer, code).json()
    assert exchange(issuer, code).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "x" * 43},
        {"code_verifier": ""},
        {"redirect_uri": "http://127.0.0.1:9/callback"},
        {"client_id": "other"},
    ],
)
def test_the_provider_checks_the_token_request(issuer: Issuer, changes: dict[str, str]) -> None:
    answer = exchange(issuer, authorize(issuer).params["code"], **changes)
    assert answer.status_code in {400, 401}
    assert "id_token" not in answer.text


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge": None, "code_challenge_method": None},
        {"login_hint": "mallory@example.com"},
        {"redirect_uri": "https://evil.example/callback"},
        {"client_id": "other"},
    ],
)
def test_the_provider_checks_the_authorization_request(issuer: Issuer, changes: dict[str, str | None]) -> None:
    location = authorize(issuer, **changes)
    assert "code" not in location.params
    assert location.host in {"", "127.0.0.1"}


def test_the_provider_publishes_no_private_key(issuer: Issuer) -> None:
    jwks = httpx.get(f"{issuer.url}/jwks").json()
    assert not any(key.is_private for key in KeySet.import_key_set(jwks))
