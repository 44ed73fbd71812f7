"""ID tokens that must be refused, each with a part of the reason that the log gives (invariant I-30).

A provider with the people ADA and CAROL and two published keys makes them, by its own clock.
"""

import base64
import hmac
import json
import re
from collections.abc import Callable
from typing import Any

from joserfc import jwe, jws
from joserfc.jwk import ECKey, Key, RSAKey

from demo.issuer import CLIENT_ID, Issuer, Person

ADA = Person("ada@example.com", "Ada", ("engineering", "on-call"), subject="u-1")
CAROL = Person("carol@example.com", "Carol", subject="u-2", email_verified=False)

Make = Callable[[Issuer], str]


def signed(key: Key, alg: str, claims: dict[str, Any], **header: Any) -> str:
    header = {"alg": alg, "kid": key.kid} | header
    return jws.serialize_compact(header, json.dumps(claims), key, registry=jws.JWSRegistry(algorithms=[alg]))


def encoded(text: bytes | str) -> str:
    return base64.urlsafe_b64encode(text.encode() if isinstance(text, str) else text).rstrip(b"=").decode()


def claims(**changes: Any) -> Make:
    return lambda issuer: issuer.sign(issuer.claims(ADA.email) | changes)


def at(change: Callable[[int], dict[str, Any]]) -> Make:
    """With claims that depend on the provider's clock, in seconds."""
    return lambda issuer: issuer.sign(issuer.claims(ADA.email) | change(int(issuer.clock())))


def without(name: str) -> Make:
    return lambda issuer: issuer.sign({key: value for key, value in issuer.claims(ADA.email).items() if key != name})


def header(**changes: Any) -> Make:
    """Properly signed, with another header; joserfc would not make such tokens, so they are put together here."""

    def make(issuer: Issuer) -> str:
        members = {"alg": "RS256", "kid": issuer.key.kid} | changes
        return raw(issuer, json.dumps(members), json.dumps(issuer.claims(ADA.email)))

    return make


def raw(issuer: Issuer, header: str, payload: bytes | str) -> str:
    content = f"{encoded(header)}.{encoded(payload)}"
    signature = jws.JWSRegistry.algorithms["RS256"].sign(content.encode(), issuer.key)
    return f"{content}.{encoded(signature)}"


def payload(change: Callable[[str], bytes | str]) -> Make:
    """Properly signed, with the payload's text changed."""

    def make(issuer: Issuer) -> str:
        text = change(json.dumps(issuer.claims(ADA.email)))
        return raw(issuer, json.dumps({"alg": "RS256", "kid": issuer.key.kid}), text)

    return make


def spoilt(change: Callable[[str], str]) -> Make:
    return lambda issuer: change(issuer.sign(issuer.claims(ADA.email)))


def hmac_with(secret: Callable[[Issuer], bytes]) -> Make:
    def make(issuer: Issuer) -> str:
        members = {"alg": "HS256", "kid": issuer.key.kid}
        content = f"{encoded(json.dumps(members))}.{encoded(json.dumps(issuer.claims(ADA.email)))}"
        return f"{content}.{encoded(hmac.digest(secret(issuer), content.encode(), 'sha256'))}"

    return make


def unsigned(alg: object) -> Make:
    return lambda issuer: (
        f"{encoded(json.dumps({'alg': alg, 'kid': issuer.key.kid}))}.{encoded(json.dumps(issuer.claims(ADA.email)))}."
    )


def by_ec_key(**members: Any) -> Make:
    def make(issuer: Issuer) -> str:
        key = ECKey.generate_key("P-256", auto_kid=True)
        embedded = {"jwk": key.as_dict()} if members.get("jwk") else {}
        return signed(key, "ES256", issuer.claims(ADA.email), **({"kid": issuer.key.kid} | embedded))

    return make


def by_another_rsa_key(issuer: Issuer) -> str:
    return signed(RSAKey.generate_key(2048), "RS256", issuer.claims(ADA.email), kid=issuer.key.kid)


def encrypted(issuer: Issuer) -> str:
    return jwe.encrypt_compact({"alg": "RSA-OAEP", "enc": "A128GCM"}, b"{}", RSAKey.generate_key(2048))


def without_kid(issuer: Issuer) -> str:
    return raw(issuer, '{"alg": "RS256"}', json.dumps(issuer.claims(ADA.email)))


def respelt(token: str) -> str:
    """Another last character, with the same value in the bits that count."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def key_as_pem(issuer: Issuer) -> bytes:
    return issuer.key.as_pem(private=False)


def key_as_jwk(issuer: Issuer) -> bytes:
    return json.dumps(issuer.key.as_dict()).encode()


EXP = re.compile(r'(?<="exp": )\d+')

BAD_TOKENS: dict[str, tuple[Make, str]] = {
    "alg none": (unsigned("none"), "alg 'none' is not allowed"),
    "alg nOnE": (unsigned("nOnE"), "alg 'nOnE' is not allowed"),
    "alg empty": (unsigned(""), "alg '' is not allowed"),
    "alg null": (unsigned(None), "alg None is not allowed"),
    "alg a list": (unsigned(["RS256"]), "alg ['RS256'] is not allowed"),
    "alg allowed, not signed": (unsigned("RS256"), "the signature"),
    "HS256 with the public key in PEM": (hmac_with(key_as_pem), "alg 'HS256' is not allowed"),
    "HS256 with the public key in JSON": (hmac_with(key_as_jwk), "alg 'HS256' is not allowed"),
    "PS512": (header(alg="PS512"), "alg 'PS512' is not allowed"),
    "alg of another key than kid's": (header(alg="PS256"), "no key for kid"),
    "ES256 under the kid of an RSA key": (by_ec_key(), "no key for kid"),
    "ES256 with its own key in jwk": (by_ec_key(jwk=True), "its own key in jwk"),
    "another RSA key under our kid": (by_another_rsa_key, "the signature"),
    "kid missing, two keys": (without_kid, "no key for kid None"),
    "kid null": (header(kid=None), "kid None is not a string"),
    "kid a number": (header(kid=1), "kid 1 is not a string"),
    "kid a list": (header(kid=["a"]), "kid ['a'] is not a string"),
    "kid empty": (header(kid=""), "no key for kid ''"),
    "kid unknown": (header(kid="unknown"), "no key for kid 'unknown'"),
    "kid a path": (header(kid="../../../../dev/null"), "no key for kid '../../../../dev/null'"),
    "kid a file URL": (header(kid="file:///etc/passwd"), "no key for kid 'file:///etc/passwd'"),
    "kid with SQL": (header(kid="' or 1=1 --"), "no key for kid"),
    "kid with a line break": (header(kid="a\nlevel=info"), r"no key for kid 'a\nlevel=info'"),
    "kid of 8 KiB": (header(kid="k" * 8192), "no key for kid 'kkk"),
    "jku": (header(jku="https://evil.example/jwks"), "its own key in jku"),
    "jwk": (header(jwk={"kty": "oct", "k": "AA"}), "its own key in jwk"),
    "x5u": (header(x5u="https://evil.example/cert"), "its own key in x5u"),
    "x5c": (header(x5c=["AA"]), "its own key in x5c"),
    "crit": (header(crit=["exp"], exp=1), "the header has crit"),
    "crit empty": (header(crit=[]), "the header has crit"),
    "b64 false": (header(b64=False), "the header has b64"),
    "b64 false and crit": (header(b64=False, crit=["b64"]), "the header has crit"),
    "typ of an access token": (header(typ="at+jwt"), "typ 'at+jwt'"),
    "typ of a logout token": (header(typ="logout+jwt"), "typ 'logout+jwt'"),
    "typ null": (header(typ=None), "typ None"),
    "alg twice": (
        lambda issuer: raw(issuer, f'{{"alg": "none", "alg": "RS256", "kid": "{issuer.key.kid}"}}', "{}"),
        "the header is malformed: a name occurs twice",
    ),
    "sub twice": (
        payload(lambda text: text[:-1] + ', "sub": "root"}'),
        "the payload is malformed: a name occurs twice",
    ),
    "a name twice further in": (payload(lambda text: text[:-1] + ', "x": [{"a": 1, "a": 1}]}'), "a name occurs twice"),
    "payload a list": (payload(lambda text: f"[{text}]"), "the payload is malformed: not a JSON object"),
    "payload empty": (payload(lambda _: ""), "the payload is malformed"),
    "payload not JSON": (payload(lambda text: text[:-1]), "the payload is malformed"),
    "payload not UTF-8": (payload(lambda text: text.encode() + b"\xff"), "the payload is malformed"),
    "payload in UTF-16": (payload(lambda text: text.encode("utf-16")), "the payload is malformed"),
    "payload with a byte order mark": (payload(lambda text: "\ufeff" + text), "the payload is malformed"),
    "payload nested deeply": (payload(lambda _: "[" * 11000), "the payload is malformed: nested too deeply"),
    "header nested deeply": (lambda issuer: raw(issuer, "[" * 10000, "{}"), "the header is malformed: nested"),
    "header a list": (lambda issuer: raw(issuer, '["alg", "b64"]', "{}"), "the header is malformed: not a JSON object"),
    "iss of another": (claims(iss="https://evil.example"), "iss 'https://evil.example' is not the provider's"),
    "iss with a slash": (lambda issuer: claims(iss=f"{issuer.url}/")(issuer), "is not the provider's"),
    "iss in capitals": (lambda issuer: claims(iss=issuer.url.upper())(issuer), "is not the provider's"),
    "iss a list": (lambda issuer: claims(iss=[issuer.url])(issuer), "is not the provider's"),
    "iss missing": (without("iss"), "iss None is not the provider's"),
    "aud of another": (claims(aud="other"), "aud ['other'] has none of our client ids"),
    "aud longer": (claims(aud=f"{CLIENT_ID}-2"), "has none of our client ids"),
    "aud in capitals": (claims(aud=CLIENT_ID.upper()), "has none of our client ids"),
    "aud empty": (claims(aud=[]), "aud [] has none of our client ids"),
    "aud an object": (claims(aud={CLIENT_ID: 1}), "has none of our client ids"),
    "aud missing": (without("aud"), "aud None has none of our client ids"),
    "several aud, no azp": (claims(aud=[CLIENT_ID, "other"]), "azp None is none of our client ids"),
    "several aud, azp of another": (claims(aud=[CLIENT_ID, "other"], azp="other"), "azp 'other'"),
    "azp of another": (claims(azp="other"), "azp 'other' is none of our client ids"),
    "azp null": (claims(azp=None), "azp None is none of our client ids"),
    "azp a list": (claims(azp=[CLIENT_ID]), "is none of our client ids"),
    "exp missing": (without("exp"), "exp is missing"),
    "iat missing": (without("iat"), "iat is missing"),
    "sub missing": (without("sub"), "sub is missing"),
    "exp a string": (at(lambda now: {"exp": str(now + 60)}), "is not a time"),
    "exp true": (claims(exp=True), "exp True is not a time"),
    "exp null": (claims(exp=None), "exp None is not a time"),
    "exp negative": (claims(exp=-1), "exp -1 is not a time"),
    "exp in milliseconds": (at(lambda now: {"exp": now * 1000}), "is not a time"),
    "exp infinite": (payload(lambda text: EXP.sub("1e999", text)), "exp inf is not a time"),
    "exp NaN": (payload(lambda text: EXP.sub("NaN", text)), "NaN and Infinity are not JSON"),
    "iat a string": (at(lambda now: {"iat": str(now)}), "is not a time"),
    "iat false": (claims(iat=False), "iat False is not a time"),
    "nbf a string": (claims(nbf="0"), "nbf '0' is not a time"),
    "auth_time a string": (claims(auth_time="0"), "auth_time '0' is not a time"),
    "auth_time null": (claims(auth_time=None), "auth_time None is not a time"),
    "expired": (at(lambda now: {"exp": now - 60}), "expired 60 s ago"),
    "too old": (at(lambda now: {"iat": now - 301}), "issued 301 s ago"),
    "iat in the future": (at(lambda now: {"iat": now + 61}), "iat is 61 s ahead of our clock"),
    "nbf in the future": (at(lambda now: {"nbf": now + 61}), "nbf is 61 s ahead of our clock"),
    "auth_time in the future": (at(lambda now: {"auth_time": now + 61}), "auth_time is 61 s ahead of our clock"),
    "sub empty": (claims(sub=""), "sub is missing, empty"),
    "sub a number": (claims(sub=1), "sub is not a text"),
    "sub null": (claims(sub=None), "sub is not a text"),
    "sub too long": (claims(sub="s" * 256), "sub is not a text of at most 255 characters"),
    "sub with NUL": (claims(sub="root\0"), "sub is not a text"),
    "sub not ASCII": (claims(sub="r\u043e\u043et"), "not ASCII"),
    "e-mail with a line break": (claims(email="a@b.c\nd@e.f"), "email is not a text"),
    "name half a character": (payload(lambda text: text.replace('"Ada"', '"\\ud800"')), "name is not a text"),
    "groups a string": (claims(groups="admin"), "groups is not a list"),
    "groups of numbers": (claims(groups=["a", 1]), "groups is not a text"),
    "1001 groups": (claims(groups=["g"] * 1001), "groups is not a list of at most 1000"),
    "groups elsewhere": (
        claims(_claim_names={"groups": "src1"}, _claim_sources={"src1": {"endpoint": "https://graph.example"}}),
        "groups is not in the token",
    ),
    "who knows what elsewhere": (claims(_claim_names=["groups"]), "groups is not in the token"),
    "amr a number": (claims(amr=1), "amr is not a list"),
    "amr of numbers": (claims(amr=["pwd", 1]), "amr is not a text"),
    "21 amr": (claims(amr=["pwd"] * 21), "amr is not a list of at most 20"),
    "a logout token": (claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}), "logout token"),
    "empty": (lambda _: "", "1 parts instead of 3"),
    "two dots": (lambda _: "..", "the header is malformed"),
    "truncated": (spoilt(lambda token: token[:-40]), ""),
    "truncated to two parts": (spoilt(lambda token: token.rpartition(".")[0]), "2 parts instead of 3"),
    "signature empty": (spoilt(lambda token: token.rpartition(".")[0] + "."), "the signature"),
    "signature padded": (spoilt(lambda token: token + "=="), "the signature"),
    "signature spelt otherwise": (spoilt(respelt), "the signature"),
    "a line break after it": (spoilt(lambda token: token + "\n"), "the signature"),
    "a blank before it": (spoilt(lambda token: " " + token), "the header is malformed"),
    "Bearer before it": (spoilt(lambda token: "Bearer " + token), "the header is malformed"),
    "payload of another token": (
        lambda issuer: ".".join(
            [
                *(issuer.sign(issuer.claims(CAROL.email)).split(".")[:2]),
                issuer.sign(issuer.claims(ADA.email)).rsplit(".")[-1],
            ]
        ),
        "the signature",
    ),
    "encrypted": (encrypted, "5 parts instead of 3"),
    "JSON serialization": (lambda _: '{"payload": "e30", "protected": "e30", "signature": ""}', "1 parts instead of 3"),
    "not ASCII": (spoilt(lambda token: token.replace("e", "\u0435", 1)), "not ASCII"),
    "more than 16 KiB": (claims(name="n" * 16384), "longer than 16384 bytes"),
    "1 MiB": (lambda _: "a" * (1 << 20), "longer than 16384 bytes"),
}
