"""Who keeps an interface: one process at a time, whatever becomes of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guardhouse.gateway.claim import InterfaceTaken, claimed
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable

KEEPER = """
import sys, time
from pathlib import Path
from guardhouse.gateway.claim import claimed
from guardhouse.gateway.uapi import Interface
with claimed(Interface("wg0", Path(sys.argv[1]))):
    print("kept", flush=True)
    time.sleep(60)
"""


def test_an_interface_has_one_keeper_at_a_time(tmp_path: Path) -> None:
    """Another interface is another matter, and the folder may be made by who comes first."""
    folder = tmp_path / "wireguard"
    interface = Interface("wg0", folder)
    with claimed(interface), claimed(Interface("wg1", folder)):
        for _ in range(2):
            said = f"process {os.getpid()} keeps the peers of wg0 already"
            with pytest.raises(InterfaceTaken, match=said), claimed(interface):
                pass
    with claimed(interface):
        pass
    assert {path.name for path in folder.iterdir()} == {"wg0.keeper", "wg1.keeper"}


def test_a_keeper_that_is_killed_keeps_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "kept\n"
            with (
                pytest.raises(InterfaceTaken, match=f"process {process.pid} keeps"),
                claimed(Interface("wg0", tmp_path)),
            ):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    with claimed(Interface("wg0", tmp_path)):
        pass


def test_it_says_where_nobody_can_tell(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = r"cannot make .*wg0.keeper: .*; run as the user who runs wg0"
    with pytest.raises(InterfaceUnavailable, match=said), claimed(Interface("wg0", tmp_path / "file")):
        pass
