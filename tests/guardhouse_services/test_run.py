"""What an operator is told who has to mend something before a service can start: one line, and no traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo.plane import free_port_base
from guardhouse_services.config import PREFIX, Settings


def start(var: Path, **settings: str) -> str:
    """The one line that `guardhouse-server run identity` says before it ends, with an error and no traceback."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    environment |= {f"{PREFIX}VAR": str(var), f"{PREFIX}LOG_LEVEL": "error"}
    environment |= {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "guardhouse_services", "run", "identity"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    # gRPC has lines of its own to say, of an address or at its end.
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("guardhouse-server "))
    return line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port_base": "80"}, "GUARDHOUSE_PORT_BASE: Input should be greater than or equal to 1024"),
        ({"key_file": "/nowhere/installation.key"}, "No such file or directory: '/nowhere/installation.key'"),
        ({"key_file": "/dev/null"}, "/dev/null does not hold the installation's key, 32 bytes in hex"),
        ({"database_url": "sqlite://"}, "a SQLite database is a file: sqlite:////path/to/file.db"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/{service}"}, "the database does not answer: "),
        ({"database_url": "nonsense"}, "GUARDHOUSE_DATABASE_URL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    error = start(tmp_path / "var", **settings)
    assert error.startswith("guardhouse-server cannot start: ")
    assert said in error


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    base = free_port_base()
    for name, port in (
        ("public", Settings(port_base=base).public_port("identity")),
        ("HTTP", Settings(port_base=base).http_port("identity")),
    ):
        with socket.create_server(("127.0.0.1", port)):
            error = start(tmp_path / name, port_base=str(base))
        assert error.startswith("guardhouse-server cannot start: ")
        assert str(port) in error
