"""A ping that knows of each of its packets when it was sent, and whether it was answered."""

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

from demo.namespaces import Namespace

EVERY_SECONDS: Final = 0.02
TIMEOUT_SECONDS: Final = 1.0
"""An answer that comes later is none."""
_ECHO: Final = struct.Struct("!BBHHH")
_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}
_ids = itertools.count(os.getpid())


@dataclass(slots=True)
class Packet:
    sent: float
    """By time.monotonic()."""
    answered: float | None = None


class Ping:
    """Sends echo requests from a network to an address, from `__enter__` to `__exit__`."""

    def __init__(self, name: str, source: Namespace, address: str, every: float = EVERY_SECONDS) -> None:
        self.name = name
        self._source = source
        self._address = address
        self._every = every
        self._family = 6 if ":" in address else 4
        self._id = next(_ids) & 0xFFFF
        self._packets: list[Packet] = []
        self._stop = threading.Event()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if self._family == 6 else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._family == 6 else socket.IPPROTO_ICMP
        with self._source.entered():
            self._socket = self._stack.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
        self._socket.settimeout(0.1)
        for target in (self._send, self._receive):
            thread = threading.Thread(target=target, name=f"ping {self.name}", daemon=True)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._stop.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What has come of it

    def answered_after(self, moment: float, seconds: float) -> Packet | None:
        """The first packet sent since then that is answered; it is waited for."""
        end = time.monotonic() + seconds
        seen = 0
        while True:
            packets = self._since(moment)
            for packet in packets[seen:]:
                if packet.answered is not None:
                    return packet
            if time.monotonic() > end:
                return None
            time.sleep(self._every)

    def answers(self, since: float, until: float) -> tuple[int, int]:
        """How many of the packets that were sent in this time were answered, and how many there were. Those that are
        still under way are waited for."""
        time.sleep(max(0.0, until + TIMEOUT_SECONDS - time.monotonic()))
        sent = [packet for packet in self._since(since) if packet.sent < until]
        return sum(packet.answered is not None for packet in sent), len(sent)

    def first_answered(self) -> float:
        """When the first packet was sent that was answered."""
        return next(packet.sent for packet in self._packets if packet.answered is not None)

    def last_answered(self) -> float:
        """When the last packet was answered that was."""
        return next(it.answered for it in reversed(self._packets) if it.answered is not None)

    def first_lost(self) -> float:
        """When the first packet was sent of those after the last that was answered."""
        lost = itertools.takewhile(lambda packet: packet.answered is None, reversed(self._packets))
        return min(packet.sent for packet in lost)

    def passed(self, since: float) -> int:
        """How many of the packets that were sent since then have been answered so far."""
        return sum(packet.answered is not None for packet in self._since(since))

    def _since(self, moment: float) -> list[Packet]:
        found = []
        for packet in reversed(self._packets):
            if packet.sent < moment:
                break
            found.append(packet)
        return found[::-1]

    # The packets

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every, time.monotonic())
            number = len(self._packets)
            self._packets.append(Packet(time.monotonic()))
            try:
                self._socket.sendto(self._request(number), (self._address, 0))
            except OSError:
                # No way there: it counts as lost.
                continue

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                data = self._socket.recv(2048)
            except OSError:
                continue
            heard = time.monotonic()
            if self._family == 4:
                # A raw socket of IPv4 shows the header in front, whose length is in its first byte.
                data = data[(data[0] & 15) * 4 :]
            if len(data) < _ECHO.size + 4:
                continue
            kind, _, _, about, _ = _ECHO.unpack_from(data)
            (number,) = struct.unpack_from("!I", data, _ECHO.size)
            if kind == _REPLY[self._family] and about == self._id and number < len(self._packets):
                packet = self._packets[number]
                if heard < packet.sent + TIMEOUT_SECONDS:
                    packet.answered = heard

    def _request(self, number: int) -> bytes:
        """The number is in the data as a whole, since the field for it has 16 bits."""
        kind, data = _REQUEST[self._family], struct.pack("!I", number)
        # The kernel computes the one of IPv6.
        checksum = _checksum(_ECHO.pack(kind, 0, 0, self._id, number & 0xFFFF) + data) if self._family == 4 else 0
        return _ECHO.pack(kind, 0, checksum, self._id, number & 0xFFFF) + data


def arrives(sender: Namespace, named: str, receiver: Namespace, address: str) -> bool:
    """Whether a packet arrives that names this address as its sender's, within a second. IPv4 only."""
    number = next(_ids) & 0xFFFF
    message = _ECHO.pack(_REQUEST[4], 0, 0, number, 0)
    message = _ECHO.pack(_REQUEST[4], 0, _checksum(message), number, 0)
    # The kernel adds length, identification and checksum to the header.
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        0,
        0,
        0,
        64,
        socket.IPPROTO_ICMP,
        0,
        socket.inet_aton(named),
        socket.inet_aton(address),
    )
    with receiver.entered():
        heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sender.entered():
        sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with heard, sending:
        sending.sendto(header + message, (address, 0))
        end = time.monotonic() + TIMEOUT_SECONDS
        while (left := end - time.monotonic()) > 0:
            heard.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if heard.recv(2048).endswith(message):
                    return True
    return False


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
