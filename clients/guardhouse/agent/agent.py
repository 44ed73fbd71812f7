"""`guardhouse agent`: the registrations of this machine, and the interface that the current one connects with.

A machine has one registration, or where it is shared one for each account that has registered, and one for its login
screen. Which of these is current follows from who is at the desk (decision 19), here as in the registry, so that the
interface changes hands also while the control plane is away.
"""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from guardhouse.agent import tunnel
from guardhouse.agent.folder import Folder, Kept
from guardhouse.agent.keeper import Keeper, Means, Orders, Problem, Whose
from guardhouse.agent.link import Wire, resolve
from guardhouse.agent.tunnel import Address, Gateway, Tunnel
from guardhouse.clock import Clock
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.durations import SECOND
from guardhouse.errors import GuardhouseError, InvalidField
from guardhouse.gateway.uapi import InterfaceUnavailable
from guardhouse.os_sessions import NOBODY, Desk, OsEvent, Seat, after, asks_to_register, current, registered
from guardhouse.profile import SERVICES
from guardhouse.registry.v1 import registry_pb2 as registry

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""How often the interface is looked at while nothing calls for it, because another program may have changed it; and how
often the agent says that it lives."""
TICK_SECONDS: Final = 1.0
"""How often one is tried that cannot be used."""
ASK_AGAIN: Final = SECOND // 2, 3 * SECOND // 2, 7 * SECOND // 2, 15 * SECOND // 2
"""How long after the tunnel was set up a gateway that has not answered is asked again: it may hear of a key a moment
later than the device does. WireGuard waits for 5 s between two attempts; after the last of these it is left to it."""
REPORT_SECONDS: Final = 60.0
"""The longest pause between two attempts to report."""
REPORTS: Final = 1000
"""How many events of the desk are kept while the registry cannot be told; of more, the oldest are lost."""
ACCOUNTS: Final = 100
"""How many accounts of a shared machine may have a registration."""


class EventInvalid(ValueError):
    """An event that cannot be; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """That a machine is shared, and what its login screen enrolls with."""

    pre_login: Credential | None = None


class Agent:
    """What `guardhouse agent run` runs. It begins with what the folder has, which nobody else may have."""

    def __init__(
        self,
        orders: Orders,
        folder: Folder,
        clock: Clock,
        means: Means,
        wire: Wire | None = None,
        gateway: Gateway | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.keepers: dict[Whose, Keeper] = {}
        self._orders = orders
        self._folder = folder
        self._clock = clock
        self._means = means
        self._wire = wire
        self._gateway = gateway
        self._shared = shared
        self._problem: Problem | None = None
        """What is wrong with the interface."""
        self._unused: Sequence[str] = ()
        """The host names of the profile, which an interface cannot have."""
        self._handshake_time = 0
        self._again: deque[int] = deque()
        """The steady times at which the gateway is asked again, unless it has answered."""
        self._told = ""
        """Whose tunnel the interface was last given."""
        self._changed = asyncio.Event()
        self._reported = asyncio.Event()
        self._reports: deque[registry.ReportOsSessionRequest] = deque(maxlen=REPORTS)
        self._tasks: asyncio.TaskGroup | None = None
        self._desk, self._sequence = self._remembered()
        for kept in folder.registrations():
            multi_user = kept.registration.multi_user if kept.registration.HasField("multi_user") else None
            whose = Whose(multi_user.os_user, multi_user.pre_login) if multi_user else Whose()
            if (shared is not None) == (multi_user is not None):
                self.keepers[whose] = self._keeper(whose, kept)
        if shared is not None and self._desk.os_user:
            # What happened before was perhaps not told; who is there now is.
            self._note(OsEvent.SWITCH, self._desk.os_user)
            if self._desk.at_login_screen:
                self._note(OsEvent.LOCK, "")
        always = Whose(pre_login=shared is not None)
        if always not in self.keepers and (shared is None or shared.pre_login is not None):
            self.keepers[always] = self._keeper(always, None)

    def _keeper(self, whose: Whose, kept: Kept | None) -> Keeper:
        if whose.pre_login and self._shared is not None:
            means = Means(self._shared.pre_login)
        else:
            # People of a shared machine sign in where they sit, and what comes of it is given to this.
            means = self._means if self._shared is None else Means()
        return Keeper(self._orders, self._folder, self._clock, whose, means, kept, self._change)

    async def run(self) -> None:
        """Goes on for ever, whatever is away for how long."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for keeper in self.keepers.values():
                    self._tasks.create_task(keeper.run())
                self._tasks.create_task(self._keep_wire())
                self._tasks.create_task(self._report())
        finally:
            self._tasks = None
            await self.close()

    async def once(self) -> list[Problem]:
        """Does what is due now, once; what could not be done."""
        for keeper in self.keepers.values():
            await keeper.settle()
        await self._look()
        self.say()
        return self.problems

    async def close(self) -> None:
        for keeper in self.keepers.values():
            await keeper.close()

    async def leave(self) -> None:
        """Deletes the registrations of this machine with what is kept of them, and takes the tunnel down.

        Raises GuardhouseError and InterfaceUnavailable.
        """
        for whose, keeper in list(self.keepers.items()):
            if keeper.kept is not None:
                await keeper.leave()
            await keeper.close()
            del self.keepers[whose]
        if self._wire is not None:
            await self._wire.become(None)
        self.say()

    # Who is at the desk

    def hear(self, event: OsEvent, os_user: str) -> None:
        """Takes what happens on a shared machine. Raises EventInvalid."""
        if self._shared is None:
            raise EventInvalid(
                "this machine is not in multi-user mode: set multi_user in the MDM file, or --multi-user"
            )
        if not os_user and event is not OsEvent.LOCK:
            raise EventInvalid("it needs the user")
        self._desk = after(self._desk, event, os_user)
        self._note(event, os_user)
        self._change()

    def _note(self, event: OsEvent, os_user: str) -> None:
        """Keeps an event until the registry has been told of it."""
        # A clock that was set back must not make an event older than one that was told.
        self._sequence = max(self._clock.now(), self._sequence + 1)
        self._remember()
        self._reports.append(
            registry.ReportOsSessionRequest(
                organization_id=self._orders.profile.organization_id,
                event=registry.OsSessionEvent.ValueType(event),
                os_user=os_user,
                sequence=self._sequence,
            )
        )
        self._reported.set()

    def sign_in(self, os_user: str, id_token: str) -> None:
        """Takes what a person has signed in with, on a shared machine with whose account. Raises EventInvalid."""
        if (self._shared is not None) != bool(os_user):
            raise EventInvalid(
                "it needs the user" if self._shared is not None else "a machine of one person has no user"
            )
        whose = Whose(os_user)
        if (keeper := self.keepers.get(whose)) is None:
            if len(self.keepers) >= ACCOUNTS:
                raise EventInvalid(f"at most {ACCOUNTS} accounts of a machine have a registration")
            keeper = self.keepers[whose] = self._keeper(whose, None)
            if self._tasks is not None:
                self._tasks.create_task(keeper.run())
        keeper.give(Credential(id_token=id_token))
        self._change()

    @property
    def is_enrolled(self) -> bool:
        """Whether a registration is kept."""
        return any(it.kept is not None for it in self.keepers.values())

    @property
    def asks_to_register(self) -> bool:
        """Whether whoever is at the desk is to be asked to sign in."""
        return self._shared is not None and asks_to_register(self._desk, self._seats())

    @property
    def current(self) -> Keeper | None:
        """The keeper of the registration that the interface connects with."""
        if self._shared is None:
            keeper = self.keepers[Whose()] if self.keepers else None
            return keeper if keeper is not None and keeper.is_active else None
        registration_id = current(self._desk, self._seats())
        return next((it for it in self._active() if it.kept and it.kept.registration_id == registration_id), None)

    def _active(self) -> list[Keeper]:
        return [it for it in self.keepers.values() if it.is_active]

    def _seats(self) -> list[Seat]:
        """The active registrations by the time at which they were made."""
        kept = [it.kept for it in self._active() if it.kept is not None]
        kept.sort(key=lambda it: it.registration.create_time.ToMicroseconds())
        return [Seat(it.registration_id, it.registration.multi_user.os_user) for it in kept]

    def _remembered(self) -> tuple[Desk, int]:
        found = self._folder.read_json("desk")
        try:
            return Desk(str(found["os_user"]), bool(found["at_login_screen"])), int(found["sequence"])
        except (TypeError, KeyError, ValueError):
            return NOBODY, 0

    def _remember(self) -> None:
        desk = {"os_user": self._desk.os_user, "at_login_screen": self._desk.at_login_screen}
        try:
            self._folder.write_json("desk", {**desk, "sequence": self._sequence})
        except OSError as error:
            # Who is there counts all the same, and after a restart the next event says it again.
            log.warning("cannot keep who is at the desk: %s", error)

    async def _report(self) -> None:
        """Tells the registry what happened at the desk, in order. What cannot be said now is said later."""
        pause = TICK_SECONDS
        while True:
            await self._reported.wait()
            teller = self.current or next(iter(self._active()), None)
            if not self._reports or teller is None:
                self._reported.clear()
                continue
            report = self._reports[0]
            try:
                sequence = await teller.report(report)
            except InvalidField as error:
                log.error("the registry does not take an event: %s", error.message)
                sequence = report.sequence
            except GuardhouseError as error:
                log.info("cannot report who is at the desk now: %s", error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, REPORT_SECONDS)
                continue
            pause = TICK_SECONDS
            if sequence > report.sequence:
                # The clock was set back since the newest that is known: this goes behind it.
                self._sequence = max(self._sequence, sequence) + 1
                report.sequence = self._sequence
                self._remember()
            elif self._reports[0] is report:
                self._reports.popleft()

    # The interface

    async def _keep_wire(self) -> None:
        while True:
            self._changed.clear()
            await self._look()
            self.say()
            seconds = LOOK_SECONDS if self._problem is None else TICK_SECONDS
            if self._again:
                seconds = min(seconds, max(0, self._again[0] - self._clock.steady()) / SECOND)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _look(self) -> None:
        """Makes the interface what the current registration needs."""
        if self._wire is None:
            return
        holder = self.current
        told = holder.kept.registration_id if holder and holder.kept else ""
        try:
            wanted = await self._wanted(holder.kept) if holder and holder.kept else None
            done = await self._wire.become(wanted)
            self._handshake_time = await self._wire.handshake_time() if wanted else 0
            if done:
                self._again = deque(self._clock.steady() + it for it in ASK_AGAIN)
            if wanted is None or self._handshake_time:
                self._again.clear()
            elif self._again and self._again[0] <= self._clock.steady():
                self._again.popleft()
                await self._wire.ask_again(wanted)
        except (InterfaceUnavailable, OSError) as error:
            self._again.clear()
            problem = Problem("INTERFACE_UNAVAILABLE", str(error))
            if problem != self._problem:
                log.error("%s; trying again", problem.message)
            self._problem = problem
            return
        if self._problem is not None:
            log.warning("%s: it can be used again", self._wire.name)
        self._problem = None
        if done or told != self._told:
            log.info("%s: %s", self._wire.name, f"set up for {told}" if wanted else "nobody's")
        self._told = told

    async def _wanted(self, kept: Kept) -> Tunnel | None:
        """The tunnel of a registration. Raises OSError when a host has no address now."""
        self._unused = ()
        if self._gateway is None or not tunnel.is_tunneled(kept.configuration):
            return None
        host, port = tunnel.split_endpoint(self._gateway.endpoint)
        addresses = await _resolved(host)
        settings = kept.configuration.settings
        self._unused = tunnel.hosts(settings)
        return Tunnel(
            private_key=kept.private_key,
            public_key=self._gateway.public_key,
            endpoints=tuple(tunnel.endpoint_of(it, port) for it in addresses),
            keepalive=self._gateway.keepalive,
            mtu=self._gateway.mtu,
            addresses=frozenset({f"{kept.registration.ipv4}/32", f"{kept.registration.ipv6}/128"}),
            networks=frozenset(map(str, tunnel.networks(settings, addresses, await self._control_plane()))),
        )

    async def _control_plane(self) -> list[Address]:
        """Where the services answer, as far as that can be told now."""
        found: list[Address] = []
        for service in SERVICES:
            host = getattr(self._orders.profile, service).rpartition(":")[0].strip("[]")
            if host:
                with contextlib.suppress(OSError):
                    found += await _resolved(host)
        return found

    # What it says of itself

    @property
    def problems(self) -> list[Problem]:
        found = [problem for keeper in self.keepers.values() for problem in keeper.problems.values()]
        return found if self._problem is None else [*found, self._problem]

    def say(self) -> None:
        """Writes what `guardhouse agent status` reads."""
        try:
            self._folder.write_json("status", self._status())
        except OSError as error:
            log.warning("cannot say how it is: %s", error)

    def _status(self) -> dict[str, Any]:
        held = self.current
        return {
            "time": self._clock.now(),
            "process": os.getpid(),
            "organization_id": self._orders.profile.organization_id,
            "interface": self._wire.name if self._wire else None,
            "gateway": self._gateway.endpoint if self._gateway and self._wire else None,
            "tunneled": held is not None and held.kept is not None and tunnel.is_tunneled(held.kept.configuration),
            "handshake_time": self._handshake_time,
            "interface_problem": self._problem and self._problem.message,
            "unused_hosts": list(self._unused),
            "shared": self._shared is not None,
            "os_user": self._desk.os_user,
            "at_login_screen": self._desk.at_login_screen,
            "asks_to_register": self.asks_to_register,
            "registrations": [self._said(it, it is held) for it in self.keepers.values()],
        }

    @staticmethod
    def _said(keeper: Keeper, is_current: bool) -> dict[str, Any]:
        of = keeper.kept.registration if keeper.kept else registry.Registration()
        return {
            "registration_id": of.registration_id,
            "os_user": keeper.whose.os_user,
            "pre_login": keeper.whose.pre_login,
            "standing": keeper.state.standing.value,
            "current": is_current,
            "ipv4": of.ipv4,
            "ipv6": of.ipv6,
            "heard_time": keeper.heard_time,
            "key_time": keeper.kept.key_time if keeper.kept else 0,
            "asked": keeper.asked,
            "waits_for_person": keeper.waits_for_person,
            "waits": not keeper.state.due,
            "problems": [
                {"task": task.value, "reason": it.reason, "message": it.message} for task, it in keeper.problems.items()
            ],
        }

    def _change(self) -> None:
        if self._shared is not None and self._desk == NOBODY:
            # The first account that registers is at the desk, if the machine has not said who is.
            for seat in self._seats():
                self._desk = registered(self._desk, seat.os_user)
        self._changed.set()
        self._reported.set()


async def _resolved(host: str) -> list[Address]:
    try:
        return await resolve(host)
    except OSError as error:
        raise OSError(f"{host} has no address now: {error.strerror or error}") from None
