"""What a service did of its own accord, and what of it waits for approval.

Whoever counts or adds here holds the lock of the organization's breaker.
"""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import HeldActionNotFound
from guardhouse_services.breaker.domain import HeldAction, HeldState
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.statements import chunks, prepared

LISTED = 100
"""How many subjects, and how many receipts, of a held action are named."""
_ENDED = (HeldState.REJECTED, HeldState.DONE)


class HeldActions:
    """The same for every service, over tables of its own: what was done to which subject, what is held, and of whom.

    The subjects' column has the name that the service gives it, and so has that of the receipts, if it has any.
    """

    def __init__(self, passed: sa.Table, held: sa.Table, items: sa.Table, subject: str, receipt: str = "") -> None:
        self._passed, self._held, self._items = passed, held, items
        self._passed_subject, self._subject = passed.c[subject], items.c[subject]
        self._receipt = items.c[receipt] if receipt else None

    def passed(self, tx: Transaction, organization_id: str, after: int) -> set[str]:
        """To whom something was done after a time."""
        return set(self._select_passed(tx, organization_id, after).scalars())

    @prepared
    def _select_passed(self, organization_id: str, after: int) -> sa.Executable:
        done = self._passed.c.action_time > after
        return sa.select(self._passed_subject).where(self._passed.c.organization_id == organization_id, done)

    def note(self, tx: Transaction, organization_id: str, ids: Collection[str], **more: Any) -> None:
        """Notes that something is done to these subjects now; `more` is what the service's table says besides."""
        values = {"action_time": tx.now, **more}
        noted = tx.insert(self._passed)
        key = list(self._passed.primary_key.columns)
        noted = noted.on_conflict_do_update(index_elements=key, set_={name: noted.excluded[name] for name in values})
        rows = [
            {"organization_id": organization_id, self._passed_subject.name: it, **values} for it in sorted(set(ids))
        ]
        tx.execute(noted, rows)

    def waiting(self, tx: Transaction, organization_id: str, source: str, effect: int) -> str:
        """The id of what of this source waits already; empty: nothing does."""
        return str(self._select_waiting(tx, organization_id, source, effect).scalar() or "")

    @prepared
    def _select_waiting(self, organization_id: str, source: str, effect: int) -> sa.Executable:
        waits = self._waits(organization_id, source)
        return sa.select(self._held.c.held_action_id).where(waits, self._held.c.effect == effect)

    def _waits(self, organization_id: str, source: str) -> sa.ColumnElement[bool]:
        held = self._held.c
        of_source = sa.and_(held.organization_id == organization_id, held.source == source)
        return sa.and_(of_source, held.state == HeldState.WAITING)

    def insert(self, tx: Transaction, organization_id: str, made: HeldAction) -> None:
        values = {"source": made.source, "effect": int(made.effect), "state": made.state.value}
        row = {"organization_id": organization_id, "held_action_id": made.held_action_id, "create_time": tx.now}
        tx.execute(self._held.insert(), {**row, **values})

    def add(self, tx: Transaction, organization_id: str, held_action_id: str, ids: Collection[str]) -> list[str]:
        """Adds subjects; answers those that were not there yet."""
        added: list[str] = []
        of_action = {"organization_id": organization_id, "held_action_id": held_action_id, "hold_time": tx.now}
        if self._receipt is not None:
            of_action[self._receipt.name] = ""
        for part in chunks(sorted(set(ids))):
            rows = [{**of_action, self._subject.name: it} for it in part]
            insert_rows = tx.insert(self._items).values(rows).on_conflict_do_nothing().returning(self._subject)
            added += tx.execute(insert_rows).scalars()
        return added

    def drop(self, tx: Transaction, organization_id: str, source: str, ids: Collection[str]) -> None:
        """Takes subjects out of what of this source waits."""
        for part in chunks(sorted(set(ids))):
            self._drop(tx, organization_id, source, part)

    @prepared
    def _drop(self, organization_id: str, source: str, ids: Sequence[str]) -> sa.Executable:
        waits = sa.select(self._held.c.held_action_id).where(self._waits(organization_id, source))
        items = self._items.c
        of_it = sa.and_(items.organization_id == organization_id, items.held_action_id.in_(waits))
        return self._items.delete().where(of_it, self._subject.in_(ids))

    def get(self, tx: Transaction, organization_id: str, held_action_id: str, *, lock: bool = False) -> HeldAction:
        """With `lock` nobody else decides about it meanwhile. Raises HeldActionNotFound."""
        select = self._select_locked if lock else self._select_one
        row = select(tx, organization_id, held_action_id).one_or_none()
        if row is None:
            raise HeldActionNotFound(held_action_id)
        return self._made(tx, row)

    @prepared
    def _select_one(self, organization_id: str, held_action_id: str) -> sa.Executable:
        return sa.select(self._held).where(self._of(organization_id, held_action_id))

    @prepared
    def _select_locked(self, organization_id: str, held_action_id: str) -> sa.Executable:
        return sa.select(self._held).where(self._of(organization_id, held_action_id)).with_for_update()

    def page(self, tx: Transaction, organization_id: str, wanted: Page) -> Sequence[HeldAction]:
        rows = self._select_page(tx, organization_id, wanted.after, wanted.size + 1).all()
        return [self._made(tx, row) for row in rows]

    @prepared
    def _select_page(self, organization_id: str, after: str, limit: int) -> sa.Executable:
        held = self._held.c
        behind = sa.select(self._held).where(held.organization_id == organization_id, held.held_action_id > after)
        return behind.order_by(held.held_action_id).limit(limit)

    def _made(self, tx: Transaction, row: Any) -> HeldAction:
        key = row.organization_id, row.held_action_id
        counts = self._count(tx, *key).one()
        return HeldAction(
            held_action_id=row.held_action_id,
            source=row.source,
            effect=row.effect,
            state=HeldState(row.state),
            create_time=row.create_time,
            decide_time=row.decide_time,
            subjects=counts.subjects,
            subjects_done=counts.done,
            subject_ids=tuple(self._select_subjects(tx, *key, LISTED).scalars()),
            receipts=tuple(self._select_receipts(tx, *key, LISTED).scalars()) if self._receipt is not None else (),
        )

    def _of(self, organization_id: str, held_action_id: str) -> sa.ColumnElement[bool]:
        held = self._held.c
        return sa.and_(held.organization_id == organization_id, held.held_action_id == held_action_id)

    def _item_of(self, organization_id: str, held_action_id: str) -> sa.ColumnElement[bool]:
        items = self._items.c
        return sa.and_(items.organization_id == organization_id, items.held_action_id == held_action_id)

    @prepared
    def _count(self, organization_id: str, held_action_id: str) -> sa.Executable:
        counts = sa.select(sa.func.count().label("subjects"), sa.func.count(self._items.c.done_time).label("done"))
        return counts.where(self._item_of(organization_id, held_action_id))

    @prepared
    def _select_subjects(self, organization_id: str, held_action_id: str, limit: int) -> sa.Executable:
        subjects = sa.select(self._subject).where(self._item_of(organization_id, held_action_id))
        return subjects.order_by(self._subject).limit(limit)

    @prepared
    def _select_receipts(self, organization_id: str, held_action_id: str, limit: int) -> sa.Executable:
        receipt: Any = self._receipt
        receipts = sa.select(receipt).where(self._item_of(organization_id, held_action_id), receipt != "")
        return receipts.distinct().order_by(receipt).limit(limit)

    def move(self, tx: Transaction, organization_id: str, held_action_id: str, to: HeldState) -> None:
        if to is HeldState.DONE:
            self._end(tx, organization_id, held_action_id, to.value)
        else:
            self._decide(tx, organization_id, held_action_id, to.value, tx.now)

    @prepared
    def _decide(self, organization_id: str, held_action_id: str, state: int, decide_time: int) -> sa.Executable:
        decided = self._held.update().where(self._of(organization_id, held_action_id))
        return decided.values(state=state, decide_time=decide_time)

    @prepared
    def _end(self, organization_id: str, held_action_id: str, state: int) -> sa.Executable:
        return self._held.update().where(self._of(organization_id, held_action_id)).values(state=state)

    def approved(self, tx: Transaction, limit: int) -> Sequence[tuple[str, str]]:
        """(organization_id, held_action_id) of what is to be carried out, of every organization."""
        return [(row.organization_id, row.held_action_id) for row in self._select_approved(tx, limit)]

    @prepared
    def _select_approved(self, limit: int) -> sa.Executable:
        held = self._held.c
        approved = sa.select(held.organization_id, held.held_action_id).where(held.state == HeldState.APPROVED)
        return approved.order_by(held.decide_time, held.held_action_id).limit(limit)

    def left(self, tx: Transaction, organization_id: str, held_action_id: str, limit: int) -> dict[str, int]:
        """Subjects to which it is still to be done, and since when they are held."""
        rows = self._select_left(tx, organization_id, held_action_id, limit)
        return {row.subject_id: row.hold_time for row in rows}

    @prepared
    def _select_left(self, organization_id: str, held_action_id: str, limit: int) -> sa.Executable:
        undone = sa.and_(self._item_of(organization_id, held_action_id), self._items.c.done_time.is_(None))
        left = sa.select(self._subject.label("subject_id"), self._items.c.hold_time).where(undone)
        return left.order_by(self._subject).limit(limit)

    def finish(
        self, tx: Transaction, organization_id: str, held_action_id: str, ids: Sequence[str], receipt: str = ""
    ) -> None:
        """Notes that it is done to these subjects, with this receipt if there is one."""
        values: dict[str, Any] = {"done_time": tx.now}
        if self._receipt is not None:
            values[self._receipt.name] = receipt
        for part in chunks(ids):
            done = sa.and_(self._item_of(organization_id, held_action_id), self._subject.in_(part))
            tx.execute(self._items.update().where(done).values(values))

    def forget(self, tx: Transaction, passed_before: int, ended_before: int, limit: int) -> int:
        """Deletes what is too old to matter, in every organization; answers how many rows of one kind at most."""
        return max(
            self._forget_passed(tx, passed_before, limit).rowcount,
            self._forget_items(tx, ended_before, limit).rowcount,
            self._forget_ended(tx, ended_before, limit).rowcount,
        )

    @prepared
    def _forget_passed(self, before: int, limit: int) -> sa.Executable:
        key = (self._passed.c.organization_id, self._passed_subject)
        old = sa.select(*key).where(self._passed.c.action_time < before).limit(limit)
        return self._passed.delete().where(sa.tuple_(*key).in_(old))

    @prepared
    def _forget_items(self, before: int, limit: int) -> sa.Executable:
        held, items = self._held.c, self._items.c
        of_ended = sa.and_(
            held.organization_id == items.organization_id,
            held.held_action_id == items.held_action_id,
            held.state.in_(_ENDED),
            held.decide_time < before,
        )
        key = (items.organization_id, items.held_action_id, self._subject)
        old = sa.select(*key).join(self._held, of_ended).limit(limit)
        return self._items.delete().where(sa.tuple_(*key).in_(old))

    @prepared
    def _forget_ended(self, before: int, limit: int) -> sa.Executable:
        held, items = self._held.c, self._items.c
        of_it = sa.and_(items.organization_id == held.organization_id, items.held_action_id == held.held_action_id)
        left = sa.exists().where(of_it).correlate(self._held)
        key = (held.organization_id, held.held_action_id)
        old = sa.select(*key).where(held.state.in_(_ENDED), held.decide_time < before, ~left).limit(limit)
        return self._held.delete().where(sa.tuple_(*key).in_(old))
