"""A gateway with an embedded checker, a process of its own: `python -m bench.gateway PROFILE SNAPSHOT`.

It reads a command a line, `name number ...`, and answers each with a line of JSON. `Gateway` is the other end.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import AF_INET, inet_ntop
from typing import Any, Self

import uvloop

from bench import rules
from bench.figure import Sample, percentile
from bench.machine import resident_bytes
from guardhouse.checker import Checker, Decision, Kind
from guardhouse.collecting import keep_pauses_short
from guardhouse.profile import Profile, load

START_SECONDS = 600.0
WORKING_SET = 2000
PART = 1000
"""Questions between two looks at what the feeds have sent."""
REQUESTS = 2000
CONNECTION = ("net.dst.ip", "net.dst.port")
TICK_SECONDS = 0.001
LOOK_SECONDS = 0.0005
ALLOW = Decision.ALLOW


class Gateway:
    """Starts the process, and asks it. What it prints that is no answer ends in the log."""

    def __init__(self, folder: Path, profile: Profile, key: str, snapshot: Path | None = None) -> None:
        self._file = folder / "gateway.toml"
        profile.write(self._file)
        self._log = folder / "gateway.log"
        self._command = [sys.executable, "-m", "bench.gateway", str(self._file), str(snapshot or "")]
        self._environment = {**os.environ, "GUARDHOUSE_API_KEY": key}
        self.started: dict[str, Any] = {}
        """The seconds until everything was known, and the bytes in memory before and after."""

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                limit=1 << 24,
            )
        self._into: Any = self._process.stdin
        self._from: Any = self._process.stdout
        try:
            self.started = await self._answer()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """It writes its file, if it has one, and ends."""
        self._into.close()
        try:
            await asyncio.wait_for(self._process.wait(), START_SECONDS)
        finally:
            if self._process.returncode is None:
                self._process.kill()

    async def ask(self, *command: object) -> dict[str, Any]:
        self._into.write(f"{' '.join(map(str, command))}\n".encode())
        return await self._answer()

    async def sample(self, *command: object) -> Sample:
        return Sample(**await self.ask(*command))

    async def _answer(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._from.readline(), START_SECONDS)
        if not line:
            raise RuntimeError(f"the gateway has ended:\n{self._log.read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Commands:
    """What it can be told. Questions are made ahead, of texts that nothing has been looked up by yet."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._dice = random.Random(0)
        state = checker._state
        self._ids = list(state.registrations.states[checker.organization_id].registrations)
        self._working = self._dice.sample(self._ids, min(WORKING_SET, len(self._ids)))
        policies = state.policies.states[checker.organization_id].policies.values()
        self._policy_id = next(policy.policy_id for policy in policies if policy.timeout is not None)
        self._requests = [rules.fields(self._dice) for _ in range(REQUESTS)]
        self._connections = [{name: each[name] for name in CONNECTION} for each in self._requests]
        self._seen: list[str] = []

    async def sessions(self, count: str) -> dict[str, Any]:
        """Checks of sessions, of registrations drawn at random."""
        return await self._sessions(self._dice.choices(self._ids, k=int(count)))

    async def working(self, count: str) -> dict[str, Any]:
        """The same among few."""
        return await self._sessions(self._dice.choices(self._working, k=int(count)))

    async def traffic(self, count: str) -> dict[str, Any]:
        """HTTP requests from virtual addresses drawn at random, of those that have asked before."""
        return await self._traffic(self._dice.choices(self._seen, k=int(count)), "request", self._requests)

    async def connections(self, count: str) -> dict[str, Any]:
        """The same for connections, of which no more is known than to where they go."""
        return await self._traffic(self._dice.choices(self._seen, k=int(count)), "connection", self._connections)

    async def everybody(self) -> dict[str, Any]:
        """The session of each registration once, in an order that is not theirs."""
        return await self._sessions(self._dice.sample(self._ids, len(self._ids)))

    async def some(self, count: str) -> dict[str, Any]:
        """An HTTP request from each of so many, drawn at random, for the first time."""
        self._seen = self._dice.sample(self._ids, int(count))
        return await self._traffic(self._seen, "request", self._requests)

    async def memory(self) -> dict[str, Any]:
        return {"bytes": resident_bytes(os.getpid())}

    async def pauses(self, seconds: str) -> dict[str, Any]:
        """How late a timer of a millisecond is, in milliseconds, and how much of that this process was computing."""
        late: list[float] = []
        busy: list[float] = []
        end = time.perf_counter() + float(seconds)
        checker, fields, stale = self._checker, self._requests[0], 0
        file = checker._snapshot
        writing = asyncio.create_task(checker._store(file)) if file is not None else None
        while (began := time.perf_counter()) < end or (writing is not None and not writing.done()):
            used = time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            late.append(1e3 * (time.perf_counter() - began - TICK_SECONDS))
            busy.append(min(late[-1], 1e3 * (time.process_time() - used)))
            checker.check_traffic(kind="request", registration_id=self._dice.choice(self._ids), fields=fields)
            stale = max(stale, checker.staleness() or 0)
        return {"staleness": stale / 1e6} | {name: _worst(values) for name, values in (("late", late), ("busy", busy))}

    async def look(self, registration_id: str) -> dict[str, Any]:
        return {"allowed": self._checker.check_session(registration_id, self._policy_id).decision is ALLOW}

    async def refused(self, registration_id: str) -> dict[str, Any]:
        """The steady time at which it is refused for the first time."""
        checker = self._checker
        while checker.check_session(registration_id, self._policy_id).decision is ALLOW:  # noqa: ASYNC110  # polls
            await asyncio.sleep(LOOK_SECONDS)
        return {"at": time.monotonic()}

    async def _sessions(self, drawn: Sequence[str]) -> dict[str, Any]:
        asked, policy_id = [_anew(each) for each in drawn], self._policy_id
        check = self._checker.check_session

        def part(start: int) -> int:
            allowed = 0
            for registration_id in asked[start : start + PART]:
                if check(registration_id, policy_id).decision is ALLOW:
                    allowed += 1
            return allowed

        return await _measured(len(asked), part)

    async def _traffic(self, drawn: Sequence[str], kind: Kind, requests: Sequence[dict[str, str]]) -> dict[str, Any]:
        registrations = self._checker._state.registrations.states[self._checker.organization_id].registrations
        asked = [inet_ntop(AF_INET, registrations[each].ipv4) for each in drawn]
        place = self._dice.randrange(REQUESTS)
        check = self._checker.check_traffic

        def part(start: int) -> int:
            allowed = 0
            for number, address in enumerate(asked[start : start + PART], start + place):
                fields = requests[number % REQUESTS]
                if check(kind=kind, address=address, fields=fields).decision is ALLOW:
                    allowed += 1
            return allowed

        return await _measured(len(asked), part)


def _anew(text: str) -> str:
    """The same text as another object, whose hash is not known yet: as it comes from a caller."""
    return text.encode().decode()


async def _measured(count: int, part: Callable[[int], int]) -> dict[str, Any]:
    """All parts, and between them what the feeds send. Everything is allowed, or there is nothing to measure."""
    began, cpu, allowed = time.perf_counter(), time.process_time(), 0
    for start in range(0, count, PART):
        allowed += part(start)
        await asyncio.sleep(0)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if allowed < count:
        raise RuntimeError(f"{count - allowed} of {count} checks were not allowed")
    return {"count": count, "seconds": seconds, "cpu": cpu}


def _worst(values: Sequence[float]) -> dict[str, float]:
    return {"p99": percentile(values, 0.99), "max": max(values)}


async def main(profile: Path, snapshot: Path | None) -> None:
    before = resident_bytes(os.getpid())
    began = time.perf_counter()
    async with Checker.connect(load(profile), key=os.environ["GUARDHOUSE_API_KEY"], snapshot_path=snapshot) as checker:
        while not checker.ready():  # noqa: ASYNC110  # it has nothing to wait for
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - began
        commands = Commands(checker)
        # As a service does when it has begun.
        keep_pauses_short()
        _say({"seconds": seconds, "before": before, "after": resident_bytes(os.getpid())})
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *values = line.split()
            _say(await getattr(commands, name)(*values))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None))
