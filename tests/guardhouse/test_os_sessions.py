"""Which registration of a shared device is current (decision 19), against a plain reading of the model's flowchart."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from guardhouse.os_sessions import NOBODY, Desk, OsEvent, Seat, after, asks_to_register, current, registered

PEOPLE = ("A", "B", "C")
LOGIN_SCREEN = "login screen"


@dataclass(frozen=True)
class Ours:
    """The device as the functions under test see it. A registration's id is its maker and a number."""

    desk: Desk = NOBODY
    seats: tuple[tuple[Seat, bool], ...] = ()
    """In the order of time, and whether each is active."""

    @property
    def active(self) -> list[Seat]:
        return [seat for seat, is_active in self.seats if is_active]

    def answer(self) -> tuple[str, bool]:
        return current(self.desk, self.active), asks_to_register(self.desk, self.active)


@dataclass(frozen=True)
class Flowchart:
    """The flowchart, walked step by step: where we are in it, and what the device was registered as when we left."""

    place: str = LOGIN_SCREEN
    before: str = ""
    """Who was at the desk before the login screen."""
    uses: str = ""
    """The settings in use."""
    made: dict[str, str] = field(default_factory=dict)
    """The newest registration of each account and of the login screen ("")."""
    revoked: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return hash((self.place, self.before, self.uses, tuple(sorted(self.made.items())), self.revoked))

    def has(self, who: str) -> str:
        found = self.made.get(who, "")
        return "" if found in self.revoked else found

    def log_in(self, who: str) -> "Flowchart":
        # "Has the user already registered?" Yes: switch to that user's registration. No: the user is prompted.
        return replace(self, place=who, before=who, uses=self.has(who))

    def log_out(self, who: str) -> "Flowchart":
        # Of somebody who has not the interactive station: traffic is that of who has it.
        return self.to_login_screen() if who in (self.place, self.before) else self

    def to_login_screen(self) -> "Flowchart":
        # "Is there a pre-login registration?" Yes: use pre-login settings. No: stay registered as the previous user.
        return replace(self, place=LOGIN_SCREEN, uses=self.has("") or self.has(self.before))

    def registers(self, who: str, registration_id: str) -> "Flowchart":
        replaced = frozenset({self.made.get(who, "")})
        made = replace(self, made={**self.made, who: registration_id}, revoked=self.revoked - replaced)
        if who and not self.before:
            return made.log_in(who)  # "Enable multi-user mode": the active user is prompted.
        return made.again()

    def again(self) -> "Flowchart":
        return self.to_login_screen() if self.place == LOGIN_SCREEN else self.log_in(self.place)

    def revokes(self, who: str) -> "Flowchart":
        return replace(self, revoked=self.revoked | {self.made[who]}).again() if who in self.made else self

    def unrevokes(self, who: str) -> "Flowchart":
        return replace(self, revoked=self.revoked - {self.made[who]}).again() if who in self.made else self

    def deletes(self, who: str) -> "Flowchart":
        if who not in self.made:
            return self
        gone = self.made[who]
        made = {name: one for name, one in self.made.items() if name != who}
        return replace(self, made=made, revoked=self.revoked - {gone}).again()

    def answer(self) -> tuple[str, bool]:
        return self.uses, self.place != LOGIN_SCREEN and not self.uses


Both = tuple[Ours, Flowchart]
Step = Callable[[Both], Both]


def os_event(event: OsEvent, who: str = "") -> Step:
    def step(both: Both) -> Both:
        ours, chart = both
        ours = replace(ours, desk=after(ours.desk, event, who))
        if event == OsEvent.LOG_OUT:
            return ours, chart.log_out(who)
        return ours, chart.to_login_screen() if event == OsEvent.LOCK else chart.log_in(who)

    return step


def registers(who: str) -> Step:
    """Again too: then the registration before is replaced, as the same person's is (decision 18)."""

    def step(both: Both) -> Both:
        ours, chart = both
        number = 2 if f"{who}1" in {seat.registration_id for seat, _ in ours.seats} else 1
        seat = Seat(f"{who}{number}", who)
        kept = tuple(it for it in ours.seats if it[0].os_user != who)
        ours = Ours(registered(ours.desk, who), (*kept, (seat, True)))
        return ours, chart.registers(who, seat.registration_id)

    return step


def marks(who: str, is_active: bool) -> Step:
    def step(both: Both) -> Both:
        ours, chart = both
        seats = tuple((seat, is_active if seat.os_user == who else was) for seat, was in ours.seats)
        return replace(ours, seats=seats), chart.unrevokes(who) if is_active else chart.revokes(who)

    return step


def deletes(who: str) -> Step:
    def step(both: Both) -> Both:
        ours, chart = both
        return replace(ours, seats=tuple(it for it in ours.seats if it[0].os_user != who)), chart.deletes(who)

    return step


def enables(both: Both) -> Both:
    """For the first time: the registrations of people before it are gone, and the pre-login registration stays."""
    ours, chart = both
    for who in PEOPLE:
        ours, chart = deletes(who)((ours, chart))
    return ours, chart


def steps(*, pre_login: bool) -> Iterator[tuple[str, Step]]:
    yield "lock", os_event(OsEvent.LOCK)
    yield "enable", enables
    for who in PEOPLE:
        yield f"log in {who}", os_event(OsEvent.LOG_IN, who)
        yield f"switch to {who}", os_event(OsEvent.SWITCH, who)
        yield f"log out {who}", os_event(OsEvent.LOG_OUT, who)
    for who in ("", *PEOPLE) if pre_login else PEOPLE:
        yield f"register {who}", registers(who)
        yield f"revoke {who}", marks(who, False)
        yield f"unrevoke {who}", marks(who, True)
        yield f"delete {who}", deletes(who)


@pytest.mark.parametrize(
    ("pre_login", "length"), [(False, 8), (True, 5), pytest.param(True, 8, marks=pytest.mark.long)]
)
def test_every_sequence_of_events_ends_where_the_flowchart_does(pre_login: bool, length: int) -> None:
    """Decision 19. Both readings are functions of where they are, so sequences that meet go on together: this covers
    every sequence of up to so many events of three people."""
    found: dict[Both, str] = {(Ours(), Flowchart()): ""}
    front = list(found)
    every = list(steps(pre_login=pre_login))
    for _ in range(length):
        reached: list[Both] = []
        for both in front:
            for name, step in every:
                then = step(both)
                if then not in found:
                    found[then] = path = f"{found[both]}, {name}"
                    ours, chart = then
                    assert ours.answer() == chart.answer(), path
                    check(both, then, path)
                    reached.append(then)
        front = reached
    assert len(found) > 1000


def check(before: Both, then: Both, path: str) -> None:
    """What holds whatever happens: none that is revoked or gone is current, and at the login screen nobody is asked."""
    ours, _ = then
    now, asks = ours.answer()
    assert now in {"", *(seat.registration_id for seat in ours.active)}, path
    assert not (asks and (now or ours.desk.at_login_screen)), path
    if ours.desk.at_login_screen and not before[0].desk.at_login_screen and ours.seats == before[0].seats:
        # Somebody has come to the login screen: the pre-login registration, or nothing changes.
        pre_login = [seat.registration_id for seat in ours.active if not seat.os_user]
        assert now == (pre_login[-1] if pre_login else before[0].answer()[0]), path


ALICE, BOB, SCREEN = Seat("alice's", "A"), Seat("bob's", "B"), Seat("pre-login's")


def walk(seats: list[Seat], *events: tuple[OsEvent, str]) -> list[str]:
    desk, currents = NOBODY, []
    for event, who in events:
        desk = after(desk, event, who)
        currents.append(current(desk, seats))
    return currents


def test_without_pre_login_a_fast_switched_device_stays_with_who_logs_out() -> None:
    """The model's own example: A, a fast switch to B, B logs out; still B, until A logs back in."""
    events = (OsEvent.LOG_IN, "A"), (OsEvent.SWITCH, "B"), (OsEvent.LOG_OUT, "B"), (OsEvent.LOG_IN, "A")
    assert walk([ALICE, BOB], *events) == ["alice's", "bob's", "bob's", "alice's"]
    assert walk([ALICE, BOB, SCREEN], *events) == ["alice's", "bob's", "pre-login's", "alice's"]


def test_a_session_that_ends_in_the_background_changes_nothing() -> None:
    events = (OsEvent.LOG_IN, "A"), (OsEvent.SWITCH, "B"), (OsEvent.LOG_OUT, "A")
    assert walk([ALICE, BOB, SCREEN], *events)[-1] == "bob's"


def test_who_is_not_registered_is_asked_and_nothing_is_theirs() -> None:
    desk = after(Desk("A", at_login_screen=False), OsEvent.SWITCH, "C")
    assert current(desk, [ALICE, BOB, SCREEN]) == ""
    assert asks_to_register(desk, [ALICE, BOB, SCREEN])
    assert not asks_to_register(after(desk, OsEvent.LOCK, ""), [ALICE])


def test_an_account_has_the_registration_that_it_made_last() -> None:
    """Two people may have signed in from one account, one after the other."""
    desk = Desk("A", at_login_screen=False)
    assert current(desk, [ALICE, Seat("carol's", "A")]) == "carol's"


def test_who_registers_before_anything_is_reported_is_at_the_desk() -> None:
    assert registered(NOBODY, "A") == Desk("A", at_login_screen=False)
    assert registered(NOBODY, "") == NOBODY
    assert registered(Desk("B"), "A") == Desk("B")
