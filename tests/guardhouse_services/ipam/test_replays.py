"""Whatever part of the registry's history comes late, again or not at all, leases end where the registry has them."""

from dataclasses import dataclass, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from guardhouse_services.ipam.domain.leases import Exists, Gone, Holding, Lease, Ledger, State

Change = list[Exists | Gone]


@dataclass
class Registration:
    registration_id: str
    lease_id: str
    live: bool = True


def number(registration_id: str) -> int:
    return int(registration_id.removeprefix("reg_"))


class Replays(RuleBasedStateMachine):
    """A registry with its log, and ipam's leases behind a feed that breaks at will."""

    registrations = Bundle("registrations")

    @initialize()
    def start(self) -> None:
        self.now = 1000
        self.log: list[Change] = []
        self.states: list[dict[str, str]] = [{}]
        """The holder of each lease after each change."""
        self.all: dict[str, Registration] = {}
        self.leases: dict[str, Lease] = {}
        self.history: dict[tuple[str, str], Holding] = {}
        self.applied = 0
        self.whole = True
        """Whether the leases are at a position of the feed, and not in the middle of a snapshot."""

    def apply(self, events: Change) -> None:
        self.now += 1
        ledger = Ledger(self.leases.values(), 0, self.now)
        ledger.apply(events)
        self.take(ledger)

    def take(self, ledger: Ledger) -> None:
        self.leases.update(ledger.changed)
        for key, holding in ledger.holdings.items():
            # Registrations have their numbers in the order in which they have a lease.
            assert not any(lease == key[0] and number(it) > number(key[1]) for lease, it in self.history)
            assert key not in self.history or self.history[key].release_time is None
            self.history[key] = holding

    def commit(self, events: Change) -> None:
        self.log.append(events)
        self.states.append({it.lease_id: it.registration_id for it in self.all.values() if it.live})

    # The registry

    @precondition(lambda self: sum(it.live for it in self.all.values()) < 2)
    @rule(target=registrations)
    def enroll(self) -> Registration:
        self.now += 1
        count = len(self.all)
        made = Registration(f"reg_{count}", f"lse_{count}")
        self.all[made.registration_id] = made
        self.leases[made.lease_id] = Lease(
            made.lease_id, count, "", State.RESERVED, made.registration_id, "dev", "usr", self.now, self.now
        )
        self.commit([Exists(made.registration_id, made.lease_id, self.now)])
        return made

    @rule(target=registrations, old=registrations, spare=st.booleans())
    def take_over(self, old: Registration, spare: bool) -> Registration:
        if not old.live:
            return old
        self.now += 1
        count = len(self.all)
        made = Registration(f"reg_{count}", old.lease_id)
        self.all[made.registration_id] = made
        old.live = False
        if spare:
            lease = Lease(f"lse_{count}", count, "", State.RESERVED, made.registration_id, "dev", "usr", self.now, 0)
            self.leases[lease.lease_id] = lease
        self.commit([Exists(made.registration_id, made.lease_id, self.now), Gone(old.registration_id)])
        return made

    @rule(old=registrations)
    def touch(self, old: Registration) -> None:
        """A revocation, or a rotated key: the record comes again."""
        if old.live:
            self.commit([Exists(old.registration_id, old.lease_id, self.now)])

    @rule(old=registrations)
    def delete(self, old: Registration) -> None:
        if old.live:
            old.live = False
            self.commit([Gone(old.registration_id)])

    # The feed

    @rule(count=st.integers(1, 5))
    def follow(self, count: int) -> None:
        if self.whole:
            upto = min(self.applied + count, len(self.log))
            self.apply([event for change in self.log[self.applied : upto] for event in change])
            self.applied = upto

    @rule(data=st.data(), loses=st.booleans())
    def resync(self, data: st.DataObject, loses: bool) -> None:
        """A snapshot whose pages are read one after the other, then what changed meanwhile; it may break off."""
        began = data.draw(st.integers(self.applied, len(self.log)), "began")
        end = data.draw(st.integers(began, len(self.log)), "end")
        at, seen = began, set()
        for lease_id in sorted({lease for state in self.states for lease in state}):
            at = data.draw(st.integers(at, end), "read at")
            if (holder := self.states[at].get(lease_id)) is not None:
                seen.add(holder)
                self.apply([Exists(holder, lease_id, self.now)])
        self.whole = False
        stop = data.draw(st.integers(began, end), "stop") if loses else end
        for change in self.log[began:stop]:
            seen |= {event.registration_id for event in change if isinstance(event, Exists)}
            self.apply(change)
        if not loses:
            self.whole, self.applied = True, end
            for lease in list(self.leases.values()):
                if lease.state is State.HELD and lease.registration_id not in seen:
                    self.leases[lease.lease_id] = replace(lease, ask_time=self.now)

    @rule()
    def resolve(self) -> None:
        self.now += 1
        fresh = self.whole and self.applied == len(self.log)
        for lease in list(self.leases.values()):
            if lease.ask_time is None:
                continue
            ledger = Ledger([lease], 0, self.now)
            asked, claimant = self.all[lease.registration_id or ""], self.all.get(lease.claim_id or "")
            if asked.live:
                ledger.exists(Exists(asked.registration_id, asked.lease_id, self.now))
            elif fresh:
                if claimant is not None and not claimant.live:
                    ledger.gone(claimant.registration_id)
                ledger.gone(asked.registration_id)
            self.take(ledger)

    @invariant()
    def a_live_registration_never_loses_its_lease(self) -> None:
        for registration in self.all.values():
            if registration.live:
                assert self.leases[registration.lease_id].state is not State.RESTING

    def teardown(self) -> None:
        """When all is quiet, the leases are as the registry has them."""
        if not hasattr(self, "log"):
            return
        if self.whole:
            self.follow_all()
        else:
            self.resync_all()
        for _ in range(2):
            self.resolve()
        held = {it.lease_id: it.registration_id for it in self.leases.values() if it.state is State.HELD}
        assert held == self.states[-1]
        assert {it.state for it in self.leases.values()} <= {State.HELD, State.RESTING}

    def follow_all(self) -> None:
        self.apply([event for change in self.log[self.applied :] for event in change])
        self.applied = len(self.log)

    def resync_all(self) -> None:
        state = self.states[-1]
        self.apply([Exists(holder, lease_id, self.now) for lease_id, holder in state.items()])
        self.whole, self.applied = True, len(self.log)
        for lease in list(self.leases.values()):
            if lease.state is State.HELD and lease.registration_id not in state.values():
                self.leases[lease.lease_id] = replace(lease, ask_time=self.now)


TestReplays = Replays.TestCase
TestReplays.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
