"""Named lists."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import LimitReached, ListExists, ListNotFound
from guardhouse.expressions import NamedList
from guardhouse.policies import ListType
from guardhouse_services.database import Transaction, violated
from guardhouse_services.paging import Page
from guardhouse_services.session.domain.lists import LIMIT, ValueList
from guardhouse_services.session.store.tables import list_by_name, value_list
from guardhouse_services.statements import statement

_WITHOUT_VALUES = [column for column in value_list.c if column.name != "values"]


def _key(organization_id: str, list_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(value_list.c.organization_id == organization_id, value_list.c.list_id == list_id)


def insert(tx: Transaction, organization_id: str, added: ValueList) -> None:
    """Raises ListExists."""
    _write(tx, _INSERT, {"organization_id": organization_id}, added)


_INSERT = value_list.insert()


def update(tx: Transaction, organization_id: str, changed: ValueList) -> None:
    """Raises ListExists."""
    _write(tx, _UPDATE, {"of_organization_id": organization_id, "of_list_id": changed.list_id}, changed)


# The row comes with the values, by the names of its columns.
_UPDATE = value_list.update().where(
    value_list.c.organization_id == sa.bindparam("of_organization_id"),
    value_list.c.list_id == sa.bindparam("of_list_id"),
)


def _write(tx: Transaction, how: sa.Insert | sa.Update, key: Mapping[str, str], written: ValueList) -> None:
    try:
        tx.execute(how, {**key, **to_row(written)})
    except IntegrityError as error:
        if not violated(error, list_by_name):
            raise
        raise ListExists(f"another list is called {written.name}", name=written.name) from None


def delete(tx: Transaction, organization_id: str, list_id: str) -> None:
    _delete(tx, organization_id, list_id)


@statement
def _delete(organization_id: str, list_id: str) -> sa.Executable:
    return value_list.delete().where(_key(organization_id, list_id))


def get(tx: Transaction, organization_id: str, list_id: str) -> ValueList:
    """Raises ListNotFound."""
    row = _find(tx, organization_id, list_id).mappings().one_or_none()
    if row is None:
        raise ListNotFound(list_id)
    return from_row(row)


@statement
def _find(organization_id: str, list_id: str) -> sa.Select[Any]:
    return sa.select(value_list).where(_key(organization_id, list_id))


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[ValueList]:
    """The page's lists by creation, without their values, and one more if there is one."""
    return [
        from_row({**row, "values": ()}) for row in _page(tx, organization_id, wanted.after, wanted.size + 1).mappings()
    ]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(*_WITHOUT_VALUES)
    query = query.where(value_list.c.organization_id == organization_id, value_list.c.list_id > after)
    return query.order_by(value_list.c.list_id).limit(limit)


def page_with_values(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[ValueList]:
    """The same with their values."""
    return [from_row(row) for row in _page_with_values(tx, organization_id, wanted.after, wanted.size + 1).mappings()]


@statement
def _page_with_values(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(value_list)
    query = query.where(value_list.c.organization_id == organization_id, value_list.c.list_id > after)
    return query.order_by(value_list.c.list_id).limit(limit)


def named(tx: Transaction, organization_id: str, names: Collection[str]) -> dict[str, NamedList]:
    """Those of the names that there are, as expressions use them."""
    if not names:
        return {}
    found = map(from_row, _named(tx, organization_id, sorted(names)).mappings())
    return {it.name: NamedList.of(it.type.type, it.values) for it in found}


@statement
def _named(organization_id: str, names: list[str]) -> sa.Select[Any]:
    return sa.select(value_list).where(value_list.c.organization_id == organization_id, value_list.c.name.in_(names))


def check_room(tx: Transaction, organization_id: str) -> None:
    """Raises LimitReached when the organization, which the caller has locked, has as many as it may have."""
    if _count(tx, organization_id).scalar_one() >= LIMIT:
        raise LimitReached(f"the organization has {LIMIT} lists already; delete one first", limit=str(LIMIT))


@statement
def _count(organization_id: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(value_list).where(value_list.c.organization_id == organization_id)


def to_row(of: ValueList) -> dict[str, Any]:
    """As the table has it, without the organization; only what JSON can hold."""
    return {
        "list_id": of.list_id,
        "name": of.name,
        "description": of.description,
        "type": int(of.type),
        "value_count": of.value_count,
        "values": list(of.values),
        "create_time": of.create_time,
        "update_time": of.update_time,
    }


def from_row(row: Mapping[Any, Any]) -> ValueList:
    return ValueList(
        list_id=row["list_id"],
        name=row["name"],
        description=row["description"],
        type=ListType(row["type"]),
        values=tuple(row["values"]),
        value_count=row["value_count"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
