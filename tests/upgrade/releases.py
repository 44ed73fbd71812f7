"""Releases of Guardhouse that run beside each other: their servers and their clients, as processes of their own."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from demo.plane import free_port_base
from guardhouse_services.config import SERVICES

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Release:
    """The code of a release. Python looks into its folders before it looks at what is installed."""

    root: Path

    def environment(self, **settings: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{self.root / 'clients'}:{self.root / 'services'}", **settings}


OURS = Release(ROOT)


class Refused(Exception):
    """The server answered an error; `args` is its reason."""


class Caller:
    """The client of a release."""

    def __init__(self, release: Release, profile: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("caller.py")), str(profile)]
        self._process = subprocess.Popen(
            command, env=release.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, method: str, key: str = "", **request: Any) -> dict[str, Any]:
        """The answer to a call. Raises Refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"method": method, "key": key, "request": request}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class Servers:
    """Services in one process: how their clients find them, and what they log."""

    profile: Path
    log: Path
    services: tuple[str, ...]
    process: "subprocess.Popen[bytes]"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def errors(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["level"] in ("error", "critical")]

    def wait(self, made: Path | None = None) -> None:
        """Until they serve, and have made that file."""
        wanted = {f"{service} is serving" for service in self.services}
        end = time.monotonic() + START_SECONDS
        while not wanted <= {line["event"] for line in self.lines()} or not (made is None or made.exists()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the servers did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)


class Installation:
    """What outlives the servers: keys, certificates and databases."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._var = folder / "var"
        self._database_url = database_url
        self._port_base = free_port_base()
        self._numbers = itertools.count()

    @contextmanager
    def servers(self, release: Release, port_base: int = 0) -> Iterator[Servers]:
        """The four services of a release, when they serve."""
        with self.some(release, *SERVICES, port_base=port_base) as servers:
            servers.wait(self._var / "client.toml")
            # The next ones to start make another.
            (self._var / "client.toml").rename(servers.profile)
            yield servers

    @contextmanager
    def some(self, release: Release, *services: str, port_base: int = 0) -> Iterator[Servers]:
        """Some services of a release, which may have to wait for others."""
        port_base = port_base or self._port_base
        environment = release.environment(
            GUARDHOUSE_VAR=str(self._var),
            GUARDHOUSE_PORT_BASE=str(port_base),
            GUARDHOUSE_DATABASE_URL=self._database_url,
        )
        log = self._folder / f"{next(self._numbers)}.log"
        named = () if services == SERVICES else services
        with log.open("wb") as file:
            command = [sys.executable, "-m", "guardhouse_services", "run", *named]
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            yield Servers(self._var / f"{port_base}.toml", log, services, process)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def previous_commit() -> str:
    """The newest release that this state of the repository is built on; before the first, what `previous` records."""
    tag = _git("describe", "--tags", "--match", "v*", "--abbrev=0", "HEAD^")
    return tag or Path(__file__).with_name("previous").read_text().strip()


def export(commit: str, folder: Path) -> Release | None:
    """The code of a commit, or None when the clone does not have it."""
    if not _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return None
    archive = folder / "release.tar"
    subprocess.run(
        ["git", "archive", "--output", archive, commit, "clients", "services"], cwd=ROOT, check=True, timeout=30
    )
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, timeout=30)
    return Release(folder)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""
