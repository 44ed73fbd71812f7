"""Public keys that must be refused, for the tests of everything that takes one (decision 21).

`BAD_KEYS` are bytes and `BAD_TEXTS` base64, each under a name for the test's id. `GOOD_KEY`, from which many of them
derive, is Alice's in RFC 7748, section 6.1, and `GOOD_TEXT` the one base64 of it.
"""

import base64

P = 2**255 - 19
GOOD_KEY = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")


def _raw(u: int) -> bytes:
    return u.to_bytes(32, "little")


def _with_high_bit(raw: bytes) -> bytes:
    return raw[:31] + bytes([raw[31] | 0x80])


# The points of order 1, 2, 4 and 8 on the curve and its twist, with the forms of 0, 1 and -1 that are not reduced.
LOW_ORDER = {
    "zero": _raw(0),
    "one": _raw(1),
    "order-8-a": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order-8-b": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p-minus-1": _raw(P - 1),
    "p": _raw(P),
    "p-plus-1": _raw(P + 1),
}
# u and u + p are one coordinate; only these fit into 255 bits.
NOT_REDUCED = {f"{u}-plus-p": _raw(u + P) for u in range(2, 19)}
# The inverse of a coordinate is the same point plus the one of order 2: another canonical key with the same secrets.
OUTSIDE_SUBGROUP = {
    "good-key-plus-order-2": _raw(pow(int.from_bytes(GOOD_KEY, "little"), -1, P)),
    "base-point-plus-order-2": _raw(pow(9, -1, P)),
    "twist": _raw(2),
}
HIGH_BIT = {
    f"{name}-high-bit": _with_high_bit(raw)
    for name, raw in {**LOW_ORDER, **NOT_REDUCED, "good-key": GOOD_KEY, "base-point": _raw(9)}.items()
}
WRONG_LENGTH = {
    "empty": b"",
    "31-bytes": GOOD_KEY[:31],
    "33-bytes": GOOD_KEY + b"\0",
    "twice": GOOD_KEY * 2,
    "hex": GOOD_KEY.hex().encode(),
    "base64": base64.b64encode(GOOD_KEY),
}

BAD_KEYS: dict[str, bytes] = LOW_ORDER | NOT_REDUCED | OUTSIDE_SUBGROUP | HIGH_BIT | WRONG_LENGTH

GOOD_TEXT = base64.b64encode(GOOD_KEY).decode()
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LAST = _DIGITS.index(GOOD_TEXT[42])

BAD_TEXTS: dict[str, str] = {
    # The last digit carries four bits of the key and two that decoders drop: four texts, one key.
    **{f"unused-bits-{bits}": GOOD_TEXT[:42] + _DIGITS[_LAST + bits] + "=" for bits in (1, 2, 3)},
    "url-safe": base64.urlsafe_b64encode(GOOD_KEY).decode(),
    "no-padding": GOOD_TEXT.rstrip("="),
    "more-padding": GOOD_TEXT + "=",
    "newline-behind": GOOD_TEXT + "\n",
    "space-before": " " + GOOD_TEXT,
    "space-inside": GOOD_TEXT[:20] + " " + GOOD_TEXT[20:],
    "junk-inside": GOOD_TEXT[:20] + "!" + GOOD_TEXT[20:],
    "zero-byte": GOOD_TEXT + "\0",
    "not-ascii": "\u00e9" + GOOD_TEXT[1:],
    "hex": GOOD_KEY.hex(),
    "empty": "",
    **{name: base64.b64encode(raw).decode() for name, raw in BAD_KEYS.items() if raw},
}
