"""What `make demo-network` is made of, and what it says where it cannot be. The CI runs the demonstration itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import namespaces
from demo.namespaces import Namespace, join
from demo.ping import Ping, arrives

HERE = Path("/proc/thread-self/ns/net")


def test_the_demonstration_says_what_is_missing_and_is_no_failure(tmp_path: Path) -> None:
    """With a PATH that has no program in it."""
    command = [sys.executable, "-m", "demo.network"]
    ended = subprocess.run(
        command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Skipped: it needs ")


@pytest.fixture
def pair() -> tuple[Namespace, Namespace]:
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    return Namespace("one"), Namespace("other")


def test_a_ping_knows_which_of_its_packets_were_answered(pair: tuple[Namespace, Namespace]) -> None:
    one, other = pair
    with one, other:
        join(one, "cable", "192.0.2.1/24", other, "cable")
        other.ip("addr", "add", "192.0.2.2/24", "dev", "cable")
        other.ip("link", "set", "cable", "up")
        with Ping("there", one, "192.0.2.2", 0.005) as ping:
            assert ping.answered_after(time.monotonic(), 20) is not None
            assert arrives(one, "192.0.2.77", other, "192.0.2.2"), "a cable asks nobody for whom he sends"
            other.ip("link", "set", "cable", "down")
            cut = time.monotonic()
            answered, sent = ping.answers(cut, cut + 2)
            assert answered == 0
            assert sent > 10
            last = max(number for number, it in enumerate(ping._packets) if it.answered is not None)
            assert ping._packets[last].sent < cut
            assert ping.first_lost() == ping._packets[last + 1].sent
            assert ping.passed(cut) == 0
            assert not arrives(one, "192.0.2.77", other, "192.0.2.2")
            other.ip("link", "set", "cable", "up")
            assert ping.answered_after(time.monotonic(), 20) is not None


def test_a_thread_that_has_entered_a_network_comes_back(pair: tuple[Namespace, Namespace]) -> None:
    one, _ = pair
    here = HERE.readlink()
    with one:
        with one.entered():
            assert HERE.readlink() != here
        assert HERE.readlink() == here
    assert not Path("/run/netns", one.name).exists()
