"""Pages (AIP-158): the order is by id, which is by creation; a token names the last id of the page before it.

A token is bound to its method, organization and filters, and good for a day.
"""

import base64
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from google.protobuf.message import Message

from guardhouse.durations import DAY
from guardhouse.errors import InvalidField, PageTokenInvalid
from guardhouse_services.credentials import MasterKey, equal

DEFAULT_SIZE = 50
MAX_SIZE = 1000
MAC_BYTES = 16
PAGE_BYTES = 3 << 20
"""What a page of large messages holds, below the 4 MiB that gRPC's clients take."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Which page is asked for: rows whose id is greater than `after`, at most `size`."""

    after: str
    size: int


class Pages:
    """Reads and writes page tokens."""

    def __init__(self, key: MasterKey) -> None:
        self._key = key

    def read(self, request: Message, now: int) -> Page:
        """The page that a list request asks for. Raises InvalidField and PageTokenInvalid."""
        size: int = request.page_size  # type: ignore[attr-defined]
        text: str = request.page_token  # type: ignore[attr-defined]
        if size < 0:
            raise InvalidField("page_size", "page_size cannot be negative")
        return Page(self._open(text, request, now) if text else "", min(size or DEFAULT_SIZE, MAX_SIZE))

    def cut(
        self,
        request: Message,
        page: Page,
        rows: Sequence[T],
        id_of: Callable[[T], str],
        now: int,
        size_of: Callable[[T], int] | None = None,
        end: str = "",
    ) -> tuple[Sequence[T], str]:
        """The rows that the page shows and the token behind it, of rows that were read up to one more than its size.

        Of rows whose size in bytes is told, a page shows no more than fit a message. Behind rows that do not fill the
        page the list goes on at the `end`, if there is one.
        """
        shown = rows[: page.size]
        if size_of is not None:
            fitting = sum(filled <= PAGE_BYTES for filled in accumulate(map(size_of, shown)))
            shown = shown[: max(fitting, 1)]
        if len(shown) == len(rows):
            return rows, self._seal(end, request, now) if end else ""
        return shown, self._seal(id_of(shown[-1]), request, now)

    def _seal(self, after: str, request: Message, now: int) -> str:
        body = struct.pack(">q", now) + after.encode()
        return base64.urlsafe_b64encode(self._mac(body, request) + body).rstrip(b"=").decode()

    def _open(self, text: str, request: Message, now: int) -> str:
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        body = raw[MAC_BYTES:]
        if len(body) < 8 or not equal(raw[:MAC_BYTES], self._mac(body, request)):
            raise PageTokenInvalid("page_token", "not a page token of this list with these filters; start over")
        if struct.unpack(">q", body[:8])[0] < now - DAY:
            raise PageTokenInvalid("page_token", "the page token is older than a day; start over")
        return body[8:].decode()

    def _mac(self, body: bytes, request: Message) -> bytes:
        filters = type(request)()
        filters.CopyFrom(request)
        for field in ("page_size", "page_token", "at_least"):
            filters.ClearField(field)
        about = type(request).DESCRIPTOR.full_name.encode() + filters.SerializeToString(deterministic=True)
        key = self._key.derive("page token", hashlib.sha256(about).hexdigest())
        return hashlib.blake2b(body, key=key, digest_size=MAC_BYTES).digest()
