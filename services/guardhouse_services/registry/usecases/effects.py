"""What follows in the registry from identity's feed."""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.identity.v1 import identity_pb2
from guardhouse_services import audit
from guardhouse_services.database import Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Fence, Registration, State
from guardhouse_services.registry.messages import from_identity, to_event
from guardhouse_services.registry.usecases.os_sessions import settle
from guardhouse_services.registry.usecases.profile_matching import STEP, assign


def follow_identity(tx: Transaction, organization_id: str, events: Sequence[identity_pb2.Event]) -> None:
    """A removed user's registrations go, and so do the keys of one who was revoked together with them (decision 5).

    A removal or revocation acts once, when it is newer than what the fence knows, and only on what was authorized
    before it: one that arrives late leaves a newer enrollment alone.
    """
    changed: list[Registration] = []
    newest: dict[str, Fence] = {}
    for event in events:
        if event.WhichOneof("kind") == "user":
            record = event.user
            told = newest.get(record.user.user_id, Fence())
            newest[record.user.user_id] = Fence(
                max(told.removed_revision, record.removed_revision),
                max(told.revoked_revision, record.registrations_revoked_revision),
            )
    news_of = sorted((user_id, news) for user_id, news in newest.items() if news != Fence())
    # Every fence before any registration, in one order: see the store.
    fences = {user_id: store.fences.lock(tx, organization_id, user_id) for user_id, _ in news_of}
    for user_id, news in news_of:
        upto = max(news.removed_revision, news.revoked_revision)
        theirs = store.registrations.of_user(tx, organization_id, user_id, upto, LISTED)
        store.os_sessions.lock_devices(tx, organization_id, theirs)
    for user_id, news in news_of:
        known = fences[user_id]
        if news.removed_revision > known.removed_revision:
            known = replace(known, removed_revision=news.removed_revision)
            gone = store.registrations.of_user(tx, organization_id, user_id, news.removed_revision, LISTED)
            store.fences.raise_to(tx, organization_id, user_id, known)
            changed += store.registrations.delete(tx, organization_id, gone)
        if news.revoked_revision > known.revoked_revision:
            known = replace(known, revoked_revision=news.revoked_revision)
            upto, states = news.revoked_revision, (State.ACTIVE,)
            active = store.registrations.of_user(tx, organization_id, user_id, upto, states)
            store.fences.raise_to(tx, organization_id, user_id, known)
            changed += store.registrations.revoke(tx, organization_id, active)
    if changed:
        failpoint("registry.follow")
        ids = [it.registration_id for it in changed]
        audit.note_entry(tx, audit.Entry(organization_id, "job:follow identity", "", ids))
        tx.publish(organization_id, [to_event(it) for it in settle(tx, organization_id, changed)])


def follow_people(tx: Transaction, organization_id: str, events: Sequence[identity_pb2.Event]) -> None:
    """Keeps what identity says of users, and gives their registrations the device profiles that match them by it."""
    told = {
        event.user.user.user_id: from_identity(event.user.user)
        for event in events
        if event.WhichOneof("kind") == "user"
    }
    known = store.people.known(tx, organization_id, told)
    news = {user_id: profile for user_id, profile in told.items() if known.get(user_id) != profile}
    if not news:
        return
    store.people.save(tx, organization_id, news)
    ids = store.registrations.of_users(tx, organization_id, news, STEP + 1)
    if len(ids) > STEP:
        # More than a transaction should tell of: all are looked at in steps.
        store.matchings.begin(tx, organization_id)
        return
    moved = assign(tx, organization_id, list(store.registrations.lock(tx, organization_id, ids).values()))
    if moved:
        ids = [it.registration_id for it in moved]
        audit.note_entry(tx, audit.Entry(organization_id, "job:follow identity", "", ids))
        tx.publish(organization_id, [to_event(it) for it in moved])
