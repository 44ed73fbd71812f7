"""The present state as the feed's events, in pages."""

from collections.abc import Sequence

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.feed import Section, read_sections
from guardhouse_services.session import messages, store

# What is used comes before what uses it: lists before policies, and the settings before applications.
_SECTIONS: dict[str, Section] = {
    "list": (store.lists.page_with_values, messages.list_event, lambda it: it.list_id),
    "policy": (store.policies.page, messages.policy_event, lambda it: it.policy_id),
    "device_session_settings": (
        store.device_session_settings.page,
        messages.device_session_settings_event,
        lambda _: "",
    ),
    "application": (store.applications.page, messages.application_event, lambda it: it.application_id),
    "signing_key": (store.signing_keys.page, messages.signing_key_event, lambda it: it.key_id),
}


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of the state for the feed."""
    return read_sections(_SECTIONS, tx, organization_id, after, limit)
