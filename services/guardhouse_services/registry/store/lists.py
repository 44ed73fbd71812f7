"""Pages of lists: their orders, where they go on, and how far they look."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Cursor, Listed, Order, Range
from guardhouse_services.registry.store.tables import bytewise

T = TypeVar("T")
Values = Mapping[Order, Any]
"""By what a list may go, and the expression that is so in an index."""

LOOK = 5000
"""How many rows a page looks at for those that are wanted, where these are not twice as many as it shows."""


def in_range(
    query: sa.Select[Any],
    page: Range,
    values: Values,
    row_id: Any,
    upto: Cursor | None = None,
    *,
    by_index: bool = True,
) -> list[sa.Select[Any]]:
    """The rows of a page, in its order, as statements to be put together by `together`.

    By an index, what is behind a cursor is read as the rest of those that share its value, and those beyond it; up to a
    row, those that share the value of that one are a part as well. Each part is a stretch of that index on both
    engines, however many share a minute.
    """
    value, activity, last = values[page.order], values[Order.SEEN], page.after
    if not by_index:
        # Few are sorted. By what lies in order, an engine might go through all of them until it has met these few.
        value = sa.func.coalesce(value, value)
    if page.seen_after is not None:
        query = query.where(activity >= page.seen_after)
    if page.seen_before is not None:
        query = query.where(activity < page.seen_before)
    query = query.add_columns(value.label("value"), row_id.label("row_id")).limit(page.limit)
    in_order, in_order_of_ids = (query.order_by(*_ordered(page, *by)) for by in ((value, row_id), (row_id,)))
    behind, upto_here = (operator.lt, operator.ge) if page.descending else (operator.gt, operator.le)
    if not by_index:
        after = [behind(sa.tuple_(value, row_id), sa.tuple_(last.value, last.row_id))] if last is not None else []
        return [in_order.where(*after)]
    behind_id = [behind(row_id, last.row_id)] if last is not None else []
    upto_id = [upto_here(row_id, upto.row_id)] if upto is not None else []
    if page.order is Order.ID:
        return [in_order_of_ids.where(*behind_id, *upto_id)]
    if last is not None and upto is not None and last.value == upto.value:
        return [in_order_of_ids.where(value == last.value, *behind_id, *upto_id)]
    parts = []
    if last is not None:
        parts.append(in_order_of_ids.where(value == last.value, *behind_id))
        in_order = in_order.where(behind(value, last.value))
    if upto is not None:
        parts.append(in_order_of_ids.where(value == upto.value, *upto_id))
        in_order = in_order.where(behind(upto.value, value))
    return [*parts, in_order]


def together(parts: Sequence[sa.Select[Any]], page: Range) -> sa.Select[Any]:
    """One statement, which sees each row once even while it changes from one part to another."""
    if len(parts) == 1:
        return parts[0]
    whole = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
    return sa.select(whole).order_by(*_ordered(page, whole.c.value, whole.c.row_id)).limit(page.limit)


def looking(
    tx: Transaction,
    page: Range,
    everything: Callable[[Range], sa.Select[Any]],
    read: Callable[[Range, Cursor | None], list[T]],
) -> Listed[T]:
    """A page of such rows as are wanted, which may be rare among the others.

    So the list is walked through in strides, and no further than a page may look: what it has found by then is all that
    it shows, and the next one goes on there. `everything` selects the list with all its rows, and `read` reads those
    that are wanted of a stride.
    """
    whole = page if page.order is Order.SEEN else replace(page, seen_after=None, seen_before=None)
    rows: list[T] = []
    looked, stride = 0, 2 * page.limit
    while True:
        last = tx.execute(everything(replace(whole, limit=stride)).offset(stride - 1).limit(1)).one_or_none()
        end = Cursor(last.value, last.row_id) if last is not None else None
        found = read(page, end)
        rows += found
        looked += stride
        missing = page.limit - len(found)
        if end is None or missing <= 0:
            return Listed(rows)
        if looked >= LOOK:
            return Listed(rows, end)
        whole, page = replace(whole, after=end), replace(page, after=end, limit=missing)
        stride = min(4 * stride, LOOK - looked)


def contains(search: str, *columns: Any) -> sa.ColumnElement[bool]:
    """Whether one of the columns has this text in it; ASCII letters are alike, and both engines say the same."""
    wanted = search.encode().lower().decode()
    return sa.or_(*(sa.func.lower(bytewise(column)).contains(wanted, autoescape=True) for column in columns))


def _ordered(page: Range, *columns: Any) -> list[Any]:
    return [column.desc() if page.descending else column.asc() for column in columns]
