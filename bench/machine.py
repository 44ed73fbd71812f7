"""The machine: what it is, and what processes on it have used. It reads Linux's /proc."""

import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from guardhouse_services.database import sqlite_driver

PROC = Path("/proc")
PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "psycopg", "uvloop", "cryptography")
FLUSHES = 100
# Of the fields behind the command's name in /proc/PID/stat (proc(5)).
PARENT, CHILDREN_USER, CHILDREN_SYSTEM = 1, 13, 14


def cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU that these processes have used, with all their threads, to the nanosecond.

    One that is gone counts nothing: see `cpu_of_tree`.
    """
    used = 0.0
    for pid in pids:
        try:
            # What clock_getcpuclockid(3) answers.
            used += time.clock_gettime((~pid << 3) | 2)
        except OSError:
            continue
    return used


def cpu_of_tree(root: int) -> float:
    """Seconds of CPU of a process, of its children, and of those that it had and that have ended."""
    fields = _stat(root)
    ended = (int(fields[CHILDREN_USER]) + int(fields[CHILDREN_SYSTEM])) / os.sysconf("SC_CLK_TCK")
    return cpu_of([root, *children(root)]) + ended


def children(root: int) -> list[int]:
    found = []
    for each in PROC.iterdir():
        if each.name.isdigit():
            try:
                if int(_stat(int(each.name))[PARENT]) == root:
                    found.append(int(each.name))
            except OSError:  # it has ended meanwhile
                continue
    return found


def _stat(pid: int) -> list[str]:
    # The command's name may hold anything, parentheses too.
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def describe(folder: Path) -> dict[str, str]:
    """What the figures were measured on, for whoever compares them."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "processor": f"{os.cpu_count()} x {_first('/proc/cpuinfo', 'model name')}",
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "flush to disk": f"{_flush_seconds(folder) * 1e3:.2f} ms",
        "Python": platform.python_version(),
        "SQLite": str(sqlite_driver().sqlite_version),
        **versions,
    }


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _flush_seconds(folder: Path) -> float:
    """What a commit waits for: the median time of writing a page and flushing it."""
    times = []
    with (folder / "flush").open("wb") as file:
        for _ in range(FLUSHES):
            began = time.perf_counter()
            file.write(bytes(8192))
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[FLUSHES // 2]
