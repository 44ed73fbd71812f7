"""Structured logs: one JSON object a line, with the request id that crosses services.

Nothing that a caller sends as a credential is ever passed to a logger; messages hold ids and reasons.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Self

import structlog

trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The request id of the call that is being served."""


def configure(level: str, *, pretty: bool = False) -> None:
    """Sends everything that the standard library's loggers take to standard error."""

    def add_trace_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if found := trace_id.get():
            event.setdefault("request_id", found)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_trace_id,
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(sort_keys=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if pretty else [structlog.processors.format_exc_info]),
            last,
        ],
    )
    handler = logging.StreamHandler(sys.stderr) if pretty else JsonHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line a fetch is httpx's idea of information.
    logging.getLogger("httpx").setLevel("WARNING")
    logging.getLogger("alembic").setLevel("WARNING")
    # It cannot be told more of a malformed request than that it was one, and anybody may send many.
    logging.getLogger("uvicorn").setLevel("ERROR")


class JsonHandler(logging.StreamHandler[Any]):
    """Takes the lines of calls as well, many at once and past the machinery, which costs twelve times as much."""

    def write(self, lines: str) -> None:
        """Calls do not fail because their lines cannot be written."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                self.stream.write(lines)
                self.flush()
        finally:
            self.release()


class CallLines:
    """The lines of many calls on their way to a handler, with the fields that it gives its own lines."""

    def __init__(self, handler: JsonHandler) -> None:
        self._handler = handler
        self._lines: list[str] = []
        self._heads: dict[tuple[str, str, str], str] = {}
        self._millisecond = 0
        self._time = ""

    @classmethod
    def open(cls) -> Self | None:
        """None where people or tests read the log."""
        handler = next((it for it in logging.getLogger().handlers if isinstance(it, JsonHandler)), None)
        return cls(handler) if handler else None

    def add(
        self, at: float, method: str, caller: str, code: str, seconds: float, trace: str, extra: Mapping[str, str]
    ) -> None:
        """A call that ended `at` so many seconds since the epoch, after `seconds`."""
        key = method, caller, code
        if (head := self._heads.get(key)) is None:
            fields = {"event": "call", "logger": "guardhouse_services.journal", "level": "info"}
            head = self._heads[key] = _json(fields | {"method": method, "caller": caller, "code": code})[:-1]
        # Formatting numbers is most of what a line costs, so times that many calls share are made once.
        if (millisecond := int(at * 1000)) != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            self._millisecond = millisecond
            self._time = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:03}Z"
        if '"' in trace or "\\" in trace:
            trace = _json(trace)[1:-1]
        more = f",{_json(extra)[1:-1]}" if extra else ""
        self._lines.append(
            f'{head},"microseconds":{int(seconds * 1e6)}{more},"request_id":"{trace}","time":"{self._time}"}}\n'
        )

    def write(self) -> None:
        self._handler.write("".join(self._lines))


_json = json.JSONEncoder(separators=(",", ":")).encode
