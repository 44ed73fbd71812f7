"""A control plane of its own: `guardhouse-server run` in a temporary folder, on ports that are free."""

import fcntl
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0


_claims: dict[int, int] = {}
"""The bases that this process has claimed; the locks go with it."""


def free_port_base() -> int:
    """A base, a multiple of 100, whose ports are all free, and which is no other process's until this one ends."""
    for base in [*_claims, *random.sample(range(11000, 32000, 100), 210)]:
        if (base in _claims or _claim(base)) and _ports_are_free(base):
            return base
    raise OSError("there are not enough free ports in a row")


def _claim(base: int) -> bool:
    lock = os.open(Path(tempfile.gettempdir(), f"guardhouse-ports-{base}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _claims[base] = lock
    return True


def _ports_are_free(base: int) -> bool:
    with ExitStack() as stack:
        for port in range(base + 1, base + 25):
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


class ControlPlane:
    """The server as a process of its own. `profile` is what its clients are given."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.var = folder / "var"
        self.profile = self.var / "client.toml"
        self.log = folder / "server.log"
        self.port_base = free_port_base()
        self._environment = {
            **os.environ,
            "GUARDHOUSE_VAR": str(self.var),
            "GUARDHOUSE_PORT_BASE": str(self.port_base),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "guardhouse_services", "run"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self.profile.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the control plane did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def kill(self) -> None:
        """As a crash does it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Starts it after one of these."""
        # A start takes its profile for a sign that it is done, and this one has one.
        self.profile.unlink()
        self.__enter__()
