"""Patterns: RE2 and nothing else, because its time grows with the text only, whatever an author thinks up (T-14)."""

from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, Final

import re2

_MEMORY: Final = 1 << 20
"""Bytes that one pattern may take. RE2's own default, eight times that, makes hostile patterns ten times as slow."""
_LONG_S: Final = "\u017f"
_KELVIN: Final = "\u212a"
"""The only characters besides letters of ASCII that RE2 takes for one of them when case does not count."""


class PatternInvalid(ValueError):
    """Not RE2. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern, which is looked for anywhere in a text (decision 30a)."""

    text: str
    ignores_case: bool
    program_size: int = attribute(compare=False)
    _regexp: Any = attribute(compare=False, repr=False)

    @classmethod
    def compile(cls, text: str, ignores_case: bool) -> "Pattern":
        """Raises PatternInvalid for what RE2 refuses."""
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY
        options.never_capture = True
        options.case_sensitive = not ignores_case
        try:
            regexp = re2.compile(text, options)
        except re2.error as refused:
            raise PatternInvalid(_reason(refused)) from None
        return cls(text, ignores_case, regexp.programsize, regexp)

    def found_in(self, value: str) -> bool:
        if self.ignores_case and not value.isascii():
            value = value.replace(_LONG_S, "\ufffd").replace(_KELVIN, "\ufffd")
        return self._regexp.search(value) is not None

    @property
    def anchored_at_end(self) -> bool:
        """Whether every alternative ends where the text ends, as far as its writing shows."""
        return all(_ends_text(part) for part in _alternatives(self.text))


def _reason(refused: Exception) -> str:
    (reason,) = refused.args
    text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    if "invalid perl operator" in text:
        return f"{text}; RE2 has no look-around"
    if "invalid escape sequence" in text:
        return f"{text}; RE2 has no back-references, and a backslash stands only before what has a special meaning"
    return text


def _ends_text(pattern: str) -> bool:
    if pattern.endswith(r"\z"):
        return True
    backslashes = len(pattern) - 1 - len(pattern[:-1].rstrip("\\"))
    return pattern.endswith("$") and backslashes % 2 == 0


def _alternatives(pattern: str) -> list[str]:
    """The parts between the | that stand in no group and no character class."""
    parts = [""]
    depth = 0
    in_class = False
    characters = iter(pattern)
    for character in characters:
        if character == "|" and depth == 0 and not in_class:
            parts.append("")
            continue
        parts[-1] += character
        if character == "\\":
            parts[-1] += next(characters, "")
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        else:
            depth += (character == "(") - (character == ")")
    return parts
