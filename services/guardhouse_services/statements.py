"""Statements that are built once.

To build a statement, and the key by which SQLAlchemy finds its text again, takes several times as long as to run it. So
what has the same shape whatever its values are is a function whose arguments become parameters:

    @statement
    def _find(organization_id: str) -> sa.Select[Any]:
        return sa.select(head.c.revision).where(head.c.organization_id == organization_id)

    _find(tx, organization_id).scalar()

The function is called once, with a parameter in place of each value, so it must not look at them.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import CursorResult

if TYPE_CHECKING:
    from guardhouse_services.database import Transaction

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Rows = CursorResult[*tuple[Any, ...]]
Run = Callable[Concatenate["Transaction", P], Rows]
Insert = Callable[[sa.Table], postgresql.Insert]
"""An engine's INSERT, for its ON CONFLICT clause. Both engines write it alike; it has PostgreSQL's type."""


def statement(build: Callable[P, sa.Executable]) -> Run[P]:
    """Runs what the function builds, with the values that it is called with."""
    names = _names(build)
    built = build(*_parameters(names))  # type: ignore[call-arg]

    @wraps(build)
    def run(tx: "Transaction", /, *args: P.args, **kwargs: P.kwargs) -> Rows:
        return tx.execute(built, _values(names, args, kwargs))

    return run


def prepared(
    build: Callable[Concatenate[S, P], sa.Executable],
) -> "Callable[Concatenate[S, Transaction, P], Rows]":
    """As `statement`, for a method: what it builds is built once for each object."""
    names = _names(build)[1:]

    @wraps(build)
    def run(self: S, tx: "Transaction", /, *args: P.args, **kwargs: P.kwargs) -> Rows:
        built = vars(self).setdefault("_prepared", {})
        if build not in built:
            built[build] = build(self, *_parameters(names))  # type: ignore[call-arg]
        return tx.execute(built[build], _values(names, args, kwargs))

    return run


def upsert(build: Callable[Concatenate[Insert, P], sa.Executable]) -> Run[P]:
    """As `statement`, for an INSERT with an ON CONFLICT clause: the function is given the engine's `insert`."""
    names = _names(build)[1:]
    built: dict[Insert, sa.Executable] = {}

    @wraps(build)
    def run(tx: "Transaction", /, *args: P.args, **kwargs: P.kwargs) -> Rows:
        wanted = built.get(tx.insert)
        if wanted is None:
            wanted = built[tx.insert] = build(tx.insert, *_parameters(names))  # type: ignore[call-arg]
        return tx.execute(wanted, _values(names, args, kwargs))

    return run


# An engine takes only so many variables in a statement; SQLite 32766.
ROWS = 1000


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in as many parts as statements can take."""
    for start in range(0, len(items), ROWS):
        yield items[start : start + ROWS]


def _names(build: Callable[..., sa.Executable]) -> list[str]:
    # SQLAlchemy keeps the names of columns for itself.
    return [_name(argument) for argument in inspect.signature(build).parameters]


def _name(argument: str) -> str:
    return f"the_{argument}"


def _parameters(names: list[str]) -> Any:
    return [sa.bindparam(name) for name in names]


def _values(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    values = dict(zip(names, args, strict=False))
    for argument, value in kwargs.items():
        values[_name(argument)] = value
    return values
