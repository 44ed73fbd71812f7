"""Network namespaces, and interfaces of WireGuard in user space in them, for the demonstration and the tests.

Linux as root, with what APT names. Whatever is made goes with the `with` that made it.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

from guardhouse.gateway.uapi import FOLDER

APT: Final = "apt-get install wireguard-go wireguard-tools iproute2"
PROGRAMS: Final = ("ip", "wg", "wireguard-go")
START_SECONDS, END_SECONDS = 30.0, 30.0
_CLONE_NEWNET: Final = 0x40000000
_HERE: Final = Path("/proc/thread-self/ns/net")


def missing() -> str:
    """What there has to be for all this, and is not here, as a sentence; empty: nothing."""
    if not _HERE.exists():
        return "it needs the network namespaces of Linux"
    if os.geteuid() != 0:
        return "it needs root, who may make network namespaces"
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"it needs {' and '.join(lacking)} (Debian: {APT})"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"it needs /dev/net/tun: {error.strerror} (modprobe tun; for a container --device /dev/net/tun)"
    tried = f"guardhouse-{os.getpid()}-tried"
    try:
        for what in ("add", "del"):
            run("ip", "netns", what, tried)
    except RuntimeError as error:
        return f"it needs to make network namespaces ({error})"
    return ""


def leave_network() -> None:
    """Gives this process a network of its own, which goes with it: before it has any other thread."""
    _checked(_libc().unshare(_CLONE_NEWNET), "unshare")
    run("ip", "link", "set", "lo", "up")


def run(*command: str, text: str = "") -> str:
    """What a program prints. Raises RuntimeError with what it says when it fails."""
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(ended.stderr or ended.stdout).strip()}")
    return ended.stdout


class Namespace:
    """A network of its own, with nothing in it but loopback. Its name is this process's among those of the machine."""

    def __init__(self, name: str) -> None:
        self.name = f"guardhouse-{os.getpid()}-{name}"

    def __enter__(self) -> Self:
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        run("ip", "netns", "del", self.name)

    def command(self, *command: str) -> list[str]:
        """What runs a program in it. Its process is the program's."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, text: str = "") -> str:
        return run(*self.command(*command), text=text)

    def ip(self, *command: str) -> str:
        return run("ip", "-n", self.name, *command)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The sockets that this thread makes meanwhile are of this network, as long as they live. So are the threads
        that it starts."""
        with _HERE.open() as before, Path("/run/netns", self.name).open() as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def forward(self) -> None:
        """Passes on what is for others."""
        with self.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    def wireguard(self, interface: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """As wireguard_go, in it."""
        return wireguard_go(interface, self.command())

    def running(self, *command: str, log: Path | None = None) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """A program in it, as long as the `with` lasts."""
        return running(self.command(*command), log)


@contextmanager
def wireguard_go(interface: str, where: Sequence[str] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    """An interface that wireguard-go makes and serves. `where` is a command that runs another one in another network.

    All networks share the folder of the sockets, so its name must be the only one of the machine: what is said to a
    second one of that name the first would hear. Raises RuntimeError.
    """
    with running([*where, "wireguard-go", "--foreground", interface]) as process:
        end = time.monotonic() + START_SECONDS
        while not answers(FOLDER / f"{interface}.sock"):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"wireguard-go cannot make {interface} here")
            time.sleep(0.01)
        yield process


@contextmanager
def running(command: Sequence[str], log: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A program, as long as the `with` lasts."""
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        stack.callback(end_process, process)
        yield process


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """Has it end in its own way, and if it does not, ends it."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(path: Path) -> bool:
    """Whether somebody listens there. One that was killed has left its socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def join(one: Namespace, interface: str, address: str, other: Namespace | None, there: str) -> None:
    """A cable between two networks: one end with an address, such as 10.0.0.2/24, and the other's as it is named. The
    other network is this process's, unless one is given."""
    made = f"gh{os.getpid()}"
    run("ip", "link", "add", there, "type", "veth", "peer", "name", made)
    run("ip", "link", "set", made, "netns", one.name, "name", interface)
    if other is not None:
        run("ip", "link", "set", there, "netns", other.name)
    one.ip("addr", "add", address, "dev", interface)
    one.ip("link", "set", interface, "up")


def _setns(descriptor: int) -> None:
    _checked(_libc().setns(descriptor, _CLONE_NEWNET), "setns")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
