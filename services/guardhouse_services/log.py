"""Structured logs: one JSON object a line, with the request id that crosses services.

Nothing that a caller sends as a credential is ever passed to a logger; messages hold ids and reasons.
"""

import logging
import sys
from contextvars import ContextVar

import structlog

trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The request id of the call that is being served."""


def configure(level: str, *, pretty: bool = False) -> None:
    """Sends everything that the standard library's loggers take to standard error."""

    def add_trace_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if found := trace_id.get():
            event["request_id"] = found
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line a fetch is httpx's idea of information.
    logging.getLogger("httpx").setLevel("WARNING")
    logging.getLogger("alembic").setLevel("WARNING")
