"""The present state as the feed's events, in pages."""

from collections.abc import Callable, Sequence
from typing import Any

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.session import messages, store

Read = Callable[[Transaction, str, str, int], Sequence[Any]]

# Lists come first, because policies use them.
_SECTIONS: dict[str, tuple[Read, Callable[[Any], pb.Event], Callable[[Any], str]]] = {
    "list": (store.lists.page_with_values, messages.list_event, lambda it: it.list_id),
    "policy": (store.policies.page, messages.policy_event, lambda it: it.policy_id),
}


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of the state behind `after`, and the next `after`. It is "section:id", or empty at either end."""
    section, _, last = after.partition(":")
    events: list[pb.Event] = []
    names = list(_SECTIONS)
    for name in names[names.index(section) if section else 0 :]:
        read, event, id_of = _SECTIONS[name]
        size = limit - len(events)
        rows = read(tx, organization_id, last, size + 1)
        events += map(event, rows[:size])
        if len(rows) > size:
            return events, f"{name}:{id_of(rows[size - 1])}" if size else f"{name}:{last}"
        last = ""
    return events, ""
