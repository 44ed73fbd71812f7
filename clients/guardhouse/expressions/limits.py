"""How big an expression may be, and whence each limit comes. Past a limit an expression is refused, never cut."""

from collections.abc import Mapping
from typing import Final

from guardhouse.expressions.fields import Scope

MAX_LENGTH: Final = 100_000
"""Characters. The longest rule within MAX_MEMBERS has 1,000 e-mail addresses of up to 90 characters."""

MAX_MATCH_LENGTH: Final[Mapping[Scope, int]] = {Scope.DEVICE_PROFILE: 500, Scope.IP_PROFILE: 10_000}
"""Characters of `match`: the limits of the public API's schemas of device settings policies and of IP profiles."""

MAX_TOKENS: Final = 10_000
"""Words and signs. The other limits allow a little less, so what this one stops is parentheses and nothing else."""

MAX_DEPTH: Final = 100
"""Levels of `and`, `or` and `not` inside each other, as for every message (invariant I-34)."""

MAX_CONDITIONS: Final = 1_000
"""Comparisons: the rules of a group in the public account limits, and threat T-14."""

MAX_MEMBERS: Final = 1_000
"""Values in the sets of one expression: the e-mails or IPs of a rule in the public account limits. Lists hold more."""

MAX_PATTERN: Final = 1_024
"""Bytes of one pattern in UTF-8 (threat T-14)."""

MAX_PROGRAM: Final = 1_500
"""Instructions of RE2 in all patterns of one expression together, which bounds what one evaluation can cost (T-14). A
pattern of MAX_PATTERN bytes that names hosts has a few less; `.*@example.com` has 31."""

MAX_TEXT: Final = 2_048
"""Characters of one name, number or text: room for an address of the web, and for a pattern with its quotes."""

MAX_VALUE: Final = 8_192
"""Characters of a text that comes with traffic, because the time of a pattern grows with it (invariant I-34)."""
