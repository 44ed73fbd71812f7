"""Starts services and stops them on a signal."""

import asyncio
import contextlib
import fcntl
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvloop
from google.protobuf.internal import api_implementation
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from guardhouse.clock import Clock, SystemClock
from guardhouse.collecting import keep_pauses_short
from guardhouse.errors import GuardhouseError
from guardhouse_services import log, tls
from guardhouse_services.config import PREFIX, CannotStart, Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.node import Node

Build = Callable[[Settings, Clock], Node]
Started = Callable[[Settings, Sequence[Node]], Awaitable[None]]


def prepare(settings: Settings, clock: Clock, names: Sequence[str] = ()) -> None:
    """Makes the keys and certificates that the settings do not name, once, whoever comes first.

    `names` are what the certificates are for beside the settings' names and the addresses that the services listen on.
    """
    if api_implementation.Type() != "upb":
        raise CannotStart("protobuf runs without its native parser, which bounds nesting; install its wheel")
    settings.var.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.var / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if settings.key_file is None:
            settings.key_path.parent.mkdir(exist_ok=True, mode=0o700)
            MasterKey.create(settings.key_path)
        if settings.tls_folder is None:
            public = [name for name in map(str.strip, settings.names.split(",")) if name]
            hosts = [settings.host, settings.service_host, *public, *names]
            tls.prepare(settings.tls_path, settings.trust_domain, hosts, clock.now())


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Ends the process with a line for what an operator has to mend. A fault of ours keeps its traceback."""
    try:
        yield
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        reason = "; ".join(f"{PREFIX}{'.'.join(map(str, of['loc'])).upper()}: {of['msg']}" for of in error.errors())
    except OperationalError as error:
        reason = f"the database does not answer: {' '.join(str(error.orig).split())}"
    except (CannotStart, GuardhouseError, OSError) as error:
        reason = str(error)
    else:
        return
    sys.exit(f"guardhouse-server cannot start: {reason}")


def serve(*builds: Build, started: Started | None = None) -> None:
    """Runs the services in this process until SIGINT or SIGTERM, then drains them."""
    with mistakes(), contextlib.suppress(KeyboardInterrupt):
        settings, clock = Settings(), SystemClock()
        log.configure(settings.log_level, pretty=sys.stderr.isatty())
        prepare(settings, clock)
        uvloop.run(_serve(settings, clock, builds, started))


async def _serve(settings: Settings, clock: Clock, builds: Sequence[Build], started: Started | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(build(settings, clock)) for build in builds]
        keep_pauses_short()
        if started is not None:
            await started(settings, nodes)
        await stop.wait()
