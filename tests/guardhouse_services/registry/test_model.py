"""Whatever is done in whatever order, the registry is as a model of its rules has it, on both engines.

I-03, I-09 to I-12, and decisions 15 to 21: with shared devices, whose registrations may end by themselves as others do.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from bench.postgresql import PostgreSQL
from guardhouse import keys
from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.errors import (
    ChallengeInvalid,
    CredentialsInvalid,
    DeviceHeldByAnotherUser,
    DeviceNotFound,
    DeviceNotShared,
    GuardhouseError,
    KeyAlreadyRegistered,
    KeyNotCurrent,
    RegistrationNotFound,
    RegistrationRevoked,
)
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import USER
from guardhouse.os_sessions import NOBODY, Desk, OsEvent, Seat, after, current, registered
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.breaker.domain import WINDOW, HeldState
from guardhouse_services.paging import Page
from guardhouse_services.registry.domain import DEADLINE, KEEP_ENDED, End, State
from guardhouse_services.registry.usecases.enrollments import Enrolled, Enrollment
from guardhouse_services.registry.usecases.proofs import CHALLENGE_LIFE
from tests.clock import FakeClock
from tests.guardhouse_services.registry.world import World, machine, name, prepare, user

T = TypeVar("T")
TYPES = st.sampled_from([keys.CURVE25519, keys.SECP256R1])
FEW = 1
"""Of so few it may always be as many that are deleted by nobody's order."""
ACCOUNTS = ("anna", "ben")
ACCOUNT = st.sampled_from([None, None, *ACCOUNTS, ""])
"""On a shared device; empty is the login screen. None: it is not shared."""
WHOSE_KEY = st.sampled_from(["new", "new", "held", "former", "former", "released"])


@dataclass(eq=False)
class Made:
    """A registration as it should be."""

    enrolled: Enrolled
    holder: str
    device_id: str
    lease_id: str
    revision: int
    private: bytes
    key_type: keys.KeyType
    create_time: int
    expire_after: int | None = None
    os_user: str | None = None
    """The account of a shared device; empty is the login screen."""
    state: str = "ACTIVE"
    former: list[tuple[keys.KeyType, bytes]] = field(default_factory=list)
    seen_time: int = 0
    revoke_time: int = 0
    end_time: int = 0
    is_forgotten: bool = False

    @property
    def registration_id(self) -> str:
        return name(self.enrolled)

    @property
    def public(self) -> bytes:
        return self.key_type.public_key(self.private)

    @property
    def is_live(self) -> bool:
        return self.state != "DELETED"

    @property
    def is_of_user(self) -> bool:
        return self.holder.startswith(USER)

    @property
    def activity(self) -> int:
        return self.seen_time or self.create_time

    def revoke(self, now: int) -> None:
        if self.state == "ACTIVE":
            self.state, self.revoke_time = "REVOKED", now

    def delete(self, now: int) -> None:
        if self.is_live:
            self.state, self.end_time = "DELETED", now


@dataclass(eq=False)
class Begun:
    """An enrollment whose registry died once the intent was written."""

    attempt: Enrollment
    holder: str
    private: bytes
    hardware: str
    begin_time: int
    intent_id: str
    is_aborted: bool = False


@dataclass(frozen=True)
class Remembered:
    """What a follower knew at a revision."""

    revision: int
    records: dict[str, pb.RegistrationRecord]


class Forest(RuleBasedStateMachine):
    """Two users and a service token on three machines, which they may share (decision 19)."""

    registrations = Bundle("registrations")
    enrollments = Bundle("enrollments")

    def __init__(self, world: World, runner: asyncio.Runner) -> None:
        super().__init__()
        self.world, self._runner = world, runner
        self.made: list[Made] = []
        self.begun: list[Begun] = []
        self.known: dict[str, tuple[int, int]] = {}
        """The newest removal and revocation of each user that the registry was told."""
        self.facts: list[identity_pb2.Event] = []
        self.keeps: int | None = None
        """How long revoked registrations stay."""
        self.passed: dict[str, int] = {}
        """What was deleted by nobody's order, and when."""
        self.waiting: dict[End, dict[str, int]] = {}
        """What waits for approval, and since when."""
        self.followers: list[Remembered] = []
        self.desks: dict[str, tuple[Desk, int]] = {}
        """Who is at each shared device, and the sequence of the newest event."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @property
    def now(self) -> int:
        return self.world.clock.now()

    @initialize(target=registrations)
    def start(self) -> Any:
        """With a registration of each holder, and a shared device whose login screen shows; machines' may be silent for
        too long."""
        self.holders = (user(), user(), machine())
        self.world.organization = self.run(self.world.add_organization())
        self.world.clock.stop()
        self.run(self.world.keep_revoked("1h"))
        self.keeps = HOUR
        new = [self.enroll_one(who, hardware, "1h0m0s") for who, hardware in zip(self.holders, "aba", strict=True)]
        new += [self.enroll_one(self.holders[2], "c", "1h0m0s", ""), self.enroll_one(self.holders[0], "c", "", "anna")]
        self.report(new[-1], OsEvent.LOCK, "", is_late=False)
        return multiple(*new)

    def enroll_one(self, who: str, hardware: str, silence: str, os_user: str | None = None) -> Any:
        self.world.identity.silence = silence
        private = keys.CURVE25519.new_private_key()
        attempt = self.run(self.world.attempt(who, hardware, private=private, os_user=os_user))
        return self.register(attempt, who, hardware, private)

    @invariant()
    def time_passes(self) -> None:
        """So that of two things the later one is known."""
        self.world.clock.advance(1)

    def active(self, device_id: str) -> list[Made]:
        return [it for it in self.made if (it.state, it.device_id) == ("ACTIVE", device_id)]

    def places(self, device_id: str) -> list[Made]:
        """The users' registrations that are active on the device: one, or on a shared device one of each user."""
        found = [it for it in self.active(device_id) if it.is_of_user]
        assert len({it.holder for it in found}) == len(found)
        assert len(found) <= 1 or all(it.os_user is not None for it in found)
        return found

    def rivals(self, of: Made) -> list[Made]:
        """Who keeps it from being active again."""
        there = self.places(of.device_id) if of.is_of_user else []
        return [it for it in there if None in (it.os_user, of.os_user) or it.holder == of.holder]

    def current(self) -> set[str]:
        """The current registration of each shared device that has one."""
        found = set()
        for device_id, (desk, _) in self.desks.items():
            seats = [Seat(it.registration_id, it.os_user) for it in self.active(device_id) if it.os_user is not None]
            found.add(current(desk, seats))
        return found - {""}

    def device(self, hardware: str) -> str:
        found = [it.device_id for it in self.run(self.world.devices()) if it.claims.hardware_id == hardware]
        return found[0] if found else ""

    def key(self, whose: str, key_type: keys.KeyType) -> tuple[keys.KeyType, bytes]:
        """A private key that somebody holds, had before, or held at the end; a new one where there is none."""
        live, gone = [it for it in self.made if it.is_live], [it for it in self.made if not it.is_live]
        held = [(it.key_type, it.private) for it in live]
        former = [had for it in self.made if not it.is_forgotten for had in it.former]
        released = [(it.key_type, it.private) for it in gone]
        found = {"held": held, "former": former, "released": released}.get(whose)
        return found[-1] if found else (key_type, key_type.new_private_key())

    def may_be_taken(self, public: bytes) -> bool:
        """I-09: nobody holds it, and no registration that is remembered had it before the present one."""
        held = {it.public for it in self.made if it.is_live}
        held |= {it.attempt.public_key for it in self.begun if not it.is_aborted}
        former = {of.public_key(it) for made in self.made if not made.is_forgotten for of, it in made.former}
        return public not in held | former

    # What devices do

    @rule(
        target=registrations,
        holder=st.integers(0, 2),
        hardware=st.sampled_from("abc"),
        whose=WHOSE_KEY,
        key_type=TYPES,
        silence=st.sampled_from(["", "1h0m0s"]),
        account=ACCOUNT,
    )
    def enroll(
        self, holder: int, hardware: str, whose: str, key_type: keys.KeyType, silence: str, account: str | None
    ) -> Any:
        who = self.holders[holder]
        self.world.identity.silence = silence
        key_type, private = self.key(whose, key_type)
        about: dict[str, Any] = {"private": private, "key_type": key_type, "os_user": self.account(who, account)}
        attempt = self.run(self.world.attempt(who, hardware, **about))
        return self.register(attempt, who, hardware, private)

    @staticmethod
    def account(who: str, account: str | None) -> str | None:
        """Nobody is a person at the login screen."""
        return account or "anna" if account is not None and who.startswith(USER) else account

    def register(self, attempt: Enrollment, who: str, hardware: str, private: bytes) -> Any:
        device_id = self.device(hardware)
        there, account = self.places(device_id), attempt.os_user
        refused: type[GuardhouseError] | None = None
        if not self.may_be_taken(attempt.public_key):
            refused = KeyAlreadyRegistered
        elif self.now - int(attempt.challenge.partition(".")[0]) * SECOND > CHALLENGE_LIFE:
            refused = ChallengeInvalid
        elif account is None and who.startswith(USER) and any(it.holder != who for it in there):
            refused = DeviceHeldByAnotherUser
        if refused is not None:
            with pytest.raises(refused):
                self.run(self.world.register(attempt))
            return multiple()
        enrolled = self.run(self.world.register(attempt))
        made = enrolled.registration
        assert device_id in ("", enrolled.device.device_id)
        own = [it for it in there if it.holder == who]
        if own:
            assert made.lease.lease_id == own[0].lease_id, "decision 18: the lease goes over"
        else:
            assert made.lease.lease_id not in {it.lease_id for it in self.made}, "decision 17: a pair of its own"
        going = list(own)
        if account is not None:
            # Decision 19: everybody registers anew who did before the device was shared, also who is revoked.
            going += [it for it in self.made if it.is_live and it.device_id == device_id and it.is_of_user]
            going = [it for it in going if it.os_user is None or it in own]
            desk, sequence = self.desks.get(made.device_id, (NOBODY, 0))
            self.desks[made.device_id] = registered(desk, account), sequence
        elif any(it.os_user is not None for it in own):
            self.desks.pop(device_id, None)
        for it in going:
            it.delete(self.now)
        key_type = next(it for it in (keys.CURVE25519, keys.SECP256R1) if it.number == attempt.key_type)
        of = Made(
            enrolled,
            who,
            made.device_id,
            made.lease.lease_id,
            self.world.identity.revision + 1,
            private,
            key_type,
            self.now,
            made.expire_after,
            account,
        )
        self.made.append(of)
        return of

    @rule(target=registrations, of=registrations, by_another=st.booleans())
    def enroll_again(self, of: Made, by_another: bool) -> Any:
        """On the machine of one that there is or was."""
        who = self.holders[(self.holders.index(of.holder) + by_another) % 3]
        hardware = of.enrolled.device.claims.hardware_id
        return self.enroll_one(who, hardware, "")

    @rule(target=enrollments, holder=st.integers(0, 2), hardware=st.sampled_from("abc"), account=ACCOUNT)
    def begin(self, holder: int, hardware: str, account: str | None) -> Begun:
        who, private = self.holders[holder], keys.CURVE25519.new_private_key()
        os_user = self.account(who, account)
        attempt = self.run(self.world.begin(who, hardware, private=private, os_user=os_user))
        (row,) = self.run(self.world.rows(attempt.request_id))
        self.begun.append(Begun(attempt, who, private, hardware, self.now, row.registration_id))
        return self.begun[-1]

    @rule(target=registrations, which=enrollments)
    def finish(self, which: Begun) -> Any:
        """The device asks again; what was not decided in time begins anew, if its challenge is good still."""
        if which not in self.begun:
            return multiple()
        self.begun.remove(which)
        self.world.identity.silence = ""
        return self.register(which.attempt, which.holder, which.hardware, which.private)

    @rule(which=enrollments)
    def resolve(self, which: Begun) -> None:
        """identity or ipam asks; nothing is final before the deadline."""
        if which not in self.begun:
            return
        which.is_aborted |= self.now >= which.begin_time + DEADLINE
        state, _ = self.run(self.world.resolve(which.intent_id))
        assert state is (State.ABORTED if which.is_aborted else State.PENDING)

    @rule(of=registrations, whose=WHOSE_KEY, key_type=TYPES, late=st.booleans())
    def rotate(self, of: Made, whose: str, key_type: keys.KeyType, late: bool) -> None:
        key_type, private = self.key(whose, key_type)
        had, before = of.former[-1] if of.former else (key_type, key_type.new_private_key())
        current = had.public_key(before) if late else of.public
        expected: type[GuardhouseError] | None = None
        if of.state != "ACTIVE":
            expected = RegistrationRevoked if of.is_live else RegistrationNotFound
        elif late:
            expected = KeyNotCurrent
        elif not self.may_be_taken(key_type.public_key(private)):
            expected = KeyAlreadyRegistered
        rotation = self.world.rotate(of.enrolled, current=current, private=private, key_type=key_type)
        if expected is not None:
            with pytest.raises(expected):
                self.run(rotation)
            return
        self.run(rotation)
        of.former.append((of.key_type, of.private))
        of.key_type, of.private = key_type, private

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def beat(self, chosen: list[Made]) -> None:
        items = unique(chosen)
        self.run(self.world.beat(*(it.enrolled for it in items)))
        for it in items:
            minute = self.now - self.now % MINUTE
            if it.state == "ACTIVE":
                it.seen_time = max(it.seen_time, minute)

    @rule(of=registrations, event=st.sampled_from(OsEvent), account=st.sampled_from(ACCOUNTS), is_late=st.booleans())
    def hear_of_a_desk(self, of: Made, event: OsEvent, account: str, is_late: bool) -> None:
        self.report(of, event, account, is_late=is_late)

    def report(self, of: Made, event: OsEvent, account: str, *, is_late: bool) -> None:
        """By any of the device's registrations; an event that comes late changes nothing."""
        expected: type[GuardhouseError] | None = None
        desk, sequence = self.desks.get(of.device_id, (NOBODY, 0))
        if not of.is_live:
            expected = RegistrationNotFound
        elif of.device_id not in self.desks:
            expected = DeviceNotShared
        if expected is not None:
            with pytest.raises(expected):
                self.run(self.world.report(of.enrolled, event, account))
            return
        if is_late and sequence:
            self.run(self.world.report(of.enrolled, event, account, sequence=sequence))
            return
        self.run(self.world.report(of.enrolled, event, account))
        self.desks[of.device_id] = after(desk, event, account), self.world.reported

    @rule(of=registrations)
    def leave(self, of: Made) -> None:
        if of.state == "ACTIVE":
            self.run(self.world.leave(of.enrolled))
            of.delete(self.now)
        else:
            with pytest.raises(CredentialsInvalid if of.is_live else RegistrationNotFound):
                self.run(self.world.leave(of.enrolled))

    # What admins do

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def revoke(self, chosen: list[Made]) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.revoke(*(it.registration_id for it in items)))
        for it in items:
            it.revoke(self.now)
            assert outcomes[it.registration_id] == (it.state if it.is_live else "REGISTRATION_NOT_FOUND")

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3), told_again=st.booleans())
    def unrevoke(self, chosen: list[Made], told_again: bool) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.unrevoke(*(it.registration_id for it in items)))
        expected = {it.registration_id: {"REGISTRATION_NOT_FOUND"} for it in items}
        for it in sorted(items, key=lambda it: it.registration_id):
            if not it.is_live:
                continue
            rivals = self.rivals(it) if it.state == "REVOKED" else []
            whose = {"REGISTRATION" if rival.holder == it.holder else "USER" for rival in rivals}
            expected[it.registration_id] = {f"DEVICE_HELD_BY_ANOTHER_{of}" for of in whose} or {"ACTIVE"}
            if not rivals:
                it.state = "ACTIVE"
        assert outcomes.keys() == expected.keys()
        assert all(outcomes[key] in reasons for key, reasons in expected.items())
        if told_again and self.facts:
            # What was restored since is not revoked once more.
            self.hear(self.facts[-3:])

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def delete(self, chosen: list[Made]) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.delete(*(it.registration_id for it in items)))
        for it in items:
            assert outcomes[it.registration_id] == ("DELETED" if it.is_live else "REGISTRATION_NOT_FOUND")
            it.delete(self.now)

    @rule(hardware=st.sampled_from("abc"))
    def revoke_device(self, hardware: str) -> None:
        if device_id := self.device(hardware):
            of_it = [it for it in self.made if it.is_live and it.device_id == device_id]
            active = [it for it in of_it if it.state == "ACTIVE"]
            assert self.run(self.world.revoke_device(device_id)) == (len(active), len(of_it))
            for it in active:
                it.revoke(self.now)

    @rule(hardware=st.sampled_from("abc"))
    def delete_device(self, hardware: str) -> None:
        if device_id := self.device(hardware):
            of_it = [it for it in self.made if it.is_live and it.device_id == device_id]
            assert self.run(self.world.delete_device(device_id)) == len(of_it)
            for it in of_it:
                it.delete(self.now)
            for begun in self.begun:
                begun.is_aborted |= begun.hardware == hardware
            self.desks.pop(device_id, None)
            with pytest.raises(DeviceNotFound):
                self.run(self.world.delete_device(device_id))

    @rule(holder=st.integers(0, 1), kind=st.sampled_from(["removal", "revocation"]), at_once=st.booleans())
    def decide(self, holder: int, kind: str, at_once: bool) -> None:
        """Identity decides; the registry is told at once, later, or never."""
        self.facts.append(getattr(self.world.identity, kind)(self.holders[holder]))
        if at_once:
            self.hear(self.facts[-1:])

    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """Events, of whatever age and in whatever order."""
        if not self.facts:
            return
        self.hear(data.draw(st.lists(st.sampled_from(self.facts), min_size=1, max_size=3)))

    def hear(self, events: Sequence[identity_pb2.Event]) -> None:
        self.run(self.world.follow(*events))
        for event in events:
            who, record = event.user.user.user_id, event.user
            removed, revoked = self.known.get(who, (0, 0))
            for it in self.made:
                if it.holder != who:
                    continue
                if removed < record.removed_revision >= it.revision:
                    it.delete(self.now)
                if revoked < record.registrations_revoked_revision >= it.revision:
                    it.revoke(self.now)
            self.known[who] = (
                max(removed, record.removed_revision),
                max(revoked, record.registrations_revoked_revision),
            )

    # What happens by itself

    @rule(seconds=st.sampled_from([10, 40, 600, 3600, 7200, 26 * 3600]))
    def wait(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.run(self.world.registry.enrollments.sweep_once())
        for begun in self.begun:
            begun.is_aborted |= self.now >= begun.begin_time + DEADLINE
        for it in self.made:
            it.is_forgotten |= not it.is_live and it.end_time <= self.now - KEEP_ENDED

    @rule(keeps=st.sampled_from(["", "1h", "2h"]))
    def set_delete_revoked_after(self, keeps: str) -> None:
        self.run(self.world.keep_revoked(keeps))
        self.keeps = int(keeps[0]) * HOUR if keeps else None

    @rule(seconds=st.sampled_from([0, 1800, 3600]), heard_of_before=st.booleans())
    def end(self, seconds: int, heard_of_before: bool) -> None:
        """Decisions 15 and 17, and the breaker."""
        self.world.clock.advance(seconds)
        if heard_of_before and self.made:
            self.beat(self.made[:3])
        ended: dict[End, list[Made]] = {end: [] for end in End}
        for it in self.made:
            if not it.is_live:
                continue
            if it.state == "REVOKED" and self.keeps is not None and it.revoke_time <= self.now - self.keeps:
                ended[End.REVOKED].append(it)
            elif it.expire_after is not None and it.activity + it.expire_after <= self.now:
                ended[End.SILENT].append(it)
        count = 0
        for end, items in ended.items():
            ids = {it.registration_id for it in items}
            recent = {key for key, time in self.passed.items() if time > self.now - WINDOW}
            population = len(recent) + sum(it.is_live for it in self.made)
            if not items:
                continue
            if end in self.waiting or (len(recent | ids) > FEW and len(recent | ids) * 10 > population):
                held = self.waiting.setdefault(end, {})
                held |= dict.fromkeys(ids - held.keys(), self.now)
                continue
            self.passed |= dict.fromkeys(ids, self.now)
            for it in items:
                it.delete(self.now)
            count += len(items)
        assert self.run(self.world.registry.lifetimes.sweep_one(self.world.organization)) == count

    @rule(approves=st.booleans())
    def decide_about_what_waits(self, approves: bool) -> None:
        held = self.world.registry.held_actions
        found = self.run(held.page(self.world.organization, Page("", 1000)))
        for action in found:
            if action.state is not HeldState.WAITING:
                continue
            since = self.waiting.pop(End(action.source))
            assert set(action.subject_ids) == since.keys()
            decision = HeldState.APPROVED if approves else HeldState.REJECTED
            self.run(held.decide(self.world.call(), self.world.organization, action.held_action_id, decision))
            while self.run(held.carry_out_once()):
                pass
            for it in self.made:
                time = since.get(it.registration_id)
                if not approves or time is None or not it.is_live:
                    continue
                revoked = it.state == "REVOKED" and it.revoke_time <= time
                silent = it.expire_after is not None and it.activity <= time
                if revoked if action.source == End.REVOKED else silent:
                    it.delete(self.now)
        assert not self.waiting

    @rule()
    def follow_from_here(self) -> None:
        """Somebody loads a snapshot, and only hears of changes from then on."""
        changes = self.run(self.world.changes())
        self.followers = [*self.followers[-4:], Remembered(len(changes), self.run(self.world.snapshot(3)))]

    # What is so

    @invariant()
    def what_is_so_is_what_the_model_says(self) -> None:
        """The lists, the snapshot and the feed from whichever revision; and nobody is where somebody else is."""
        live = [it for it in self.made if it.is_live]
        snapshot = self.run(self.world.snapshot(50))
        found = {
            key: (it.lease_id, it.registration.HasField("revoke_time"), it.registration.public_key)
            for key, it in snapshot.items()
        }
        assert found == {it.registration_id: (it.lease_id, it.state == "REVOKED", it.public) for it in live}
        for state in (State.ACTIVE, State.REVOKED):
            listed = self.run(self.world.listed(state))
            assert sorted(listed) == sorted(it.registration_id for it in live if it.state == state)
        for device in self.run(self.world.devices()):
            active = [it for it in self.made if (it.state, it.device_id) == ("ACTIVE", device.device_id)]
            assert device.active_registrations == len(active)
        alone("I-09: a key", self.run(self.world.live_keys()))
        alone("I-01: a lease", (it.lease_id for it in snapshot.values()))
        users = [it.registration for it in snapshot.values() if it.registration.user_id]
        active_users = [it for it in users if it.state == pb.REGISTRATION_STATE_ACTIVE]
        outside = [it.device_id for it in active_users if not it.HasField("multi_user")]
        alone("decision 18: a place", [*outside, *{it.device_id for it in active_users if it.HasField("multi_user")}])
        alone("decision 19: a place", ((it.device_id, it.user_id) for it in active_users))
        assert {key for key, it in snapshot.items() if it.registration.current} == self.current(), "decision 19"
        changes = self.run(self.world.all_changes())
        assert [it.revision for it in changes] == list(range(1, len(changes) + 1))
        for follower in [Remembered(0, {}), *self.followers]:
            known = dict(follower.records)
            for event in (event for it in changes[follower.revision :] for event in it.events):
                if event.WhichOneof("kind") == "registration":
                    known[event.registration.registration.registration_id] = event.registration
                else:
                    known.pop(event.registration_deleted, None)
            assert known == snapshot

    def teardown(self) -> None:
        self.run(self.world.audit())


def alone(what: str, values: Iterable[object]) -> None:
    found = list(values)
    assert len(found) == len(set(found)), f"{what} is somebody else's as well"


def unique(chosen: list[Made]) -> list[Made]:
    return list({it.registration_id: it for it in chosen}.values())


def test_the_registry_does_what_its_model_does(url: str) -> None:
    run(url, examples=12, steps=40)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_registry_does_what_its_model_does_for_long(url: str) -> None:
    """As many as find each of the faults that were made on purpose."""
    run(url, examples=150, steps=50)


@pytest.fixture
def url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database."""
    if engine == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        return server.create(f"registry_model_{secrets.token_hex(4)}", "registry")
    made = f"sqlite:///{tmp_path}/registry.db"
    prepare(made)
    return made


def run(url: str, examples: int, steps: int) -> None:
    # With so few registrations nothing would ever be too many at once.
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr("guardhouse_services.breaker.domain.ALWAYS_PASS", FEW)
        world = World(url, FakeClock())
        runner.run(world.start())
        run_state_machine_as_test(
            lambda: Forest(world, runner),  # type: ignore[arg-type]  # it takes what makes one as well
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        world.close()
