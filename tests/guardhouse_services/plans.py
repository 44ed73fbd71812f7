"""What statements read, as the engines themselves say it."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa


def cost_of(connection: sa.Connection, work: Callable[[], Any]) -> int:
    """What the statements of the work read: blocks of PostgreSQL, or thousands of instructions of SQLite."""
    return (_thousands_of_instructions if connection.dialect.name == "sqlite" else _blocks)(connection, work)


def most_of(connection: sa.Connection, work: Callable[[], Any]) -> int:
    """The most rows that a part of a plan of PostgreSQL handles; 0 for SQLite, which counts otherwise."""
    return 0 if connection.dialect.name == "sqlite" else max(map(_rows, _plans(connection, work)))


def _thousands_of_instructions(connection: sa.Connection, work: Callable[[], Any]) -> int:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(step, 1000)
    work()
    driver.set_progress_handler(None, 0)
    return steps


def _blocks(connection: sa.Connection, work: Callable[[], Any]) -> int:
    return sum(int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) for plan in _plans(connection, work))


def _rows(plan: dict[str, Any]) -> int:
    """What the largest node reads and passes on, or leaves out."""
    here = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([int(here), *map(_rows, plan.get("Plans", []))])


def _plans(connection: sa.Connection, work: Callable[[], Any]) -> list[dict[str, Any]]:
    """How PostgreSQL ran the statements."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        seen.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    work()
    sa.event.remove(connection, "before_cursor_execute", note)
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
    explained = [connection.exec_driver_sql(f"{explain} {statement}", parameters) for statement, parameters in seen]
    return [each.scalar_one()[0]["Plan"] for each in explained]
