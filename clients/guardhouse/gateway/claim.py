"""One interface has one keeper: two would undo each other's work whenever one of them is cut off."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from guardhouse.gateway.uapi import Interface, InterfaceUnavailable


class InterfaceTaken(Exception):
    """Another process keeps the interface; the message is a sentence for people."""


@contextmanager
def claimed(interface: Interface) -> Iterator[None]:
    """Nobody else can claim the interface until this is left, however the process ends.

    The file stays behind, beside where the socket is or will be: it is the lock on it that counts. Raises
    InterfaceTaken, and InterfaceUnavailable where no file can be made.
    """
    path = interface.folder / f"{interface.name}.keeper"
    try:
        # As wireguard-go makes it, which may come later.
        interface.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InterfaceUnavailable(
            f"cannot make {path}: {error.strerror}; run as the user who runs {interface.name}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            keeper = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise InterfaceTaken(
                f"process {keeper} keeps the peers of {interface.name} already; stop it, or name another interface"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
