"""SCIM: what identity providers provision, and what follows from it for users and their seats (decision 8).

A SCIM user stands for a user of ours once somebody has authenticated who matches. SCIM makes no users and takes no
seats. Errors of the protocol are raised as the library of the protocol has them.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import sqlalchemy as sa
from scim2_models import (
    ForbiddenException,
    InvalidValueException,
    NotFoundException,
    PayloadTooLargeException,
    SCIMException,
    TooManyException,
    UnauthorizedException,
    UniquenessException,
)

from guardhouse.durations import DAY
from guardhouse.errors import CredentialsInvalid, GuardhouseError, IdentityProviderNotFound
from guardhouse.ids import SCIM_EVENT, SCIM_GROUP, SCIM_USER, new_id
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, equal, format_secret, hash_secret, split_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import IdentityProvider
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.domain.scim import (
    Client,
    Kind,
    MatchAttribute,
    Member,
    Resource,
    ScimEvent,
    ScimSettings,
    UpdateBehavior,
    display_name_of,
    email_of,
)
from guardhouse_services.identity.domain.seats import FreeCause
from guardhouse_services.identity.usecases import breaker, removing
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

T = TypeVar("T")
log = logging.getLogger(__name__)

PREFIX = "ghs"
LIMITS = {Kind.USER: 100_000, Kind.GROUP: 10_000}
"""How many resources of a kind a provider may have."""
MEMBERS = 10_000
"""How many members a group may have."""
SHOWN_MEMBERS = 20_000
"""How many members the groups of one answer may have together."""
COMPARED = 1_000
"""How many resources are compared with a filter, or sorted, where the database cannot do it."""
COMPARISONS = 10_000
"""How many times a part of a filter is compared with a resource: about two seconds."""
DOCUMENT_BYTES = 64 << 10
EMAIL, DISPLAY_NAME, GROUPS, GROUP = 254, 1024, 1000, 256
"""Characters of a profile's parts, and how many groups it has."""
KEEP = 30 * DAY
KEEP_EVENTS = 100_000
FORGET_ROWS = 1000
FORGET_SECONDS = 600.0
ID_PREFIX = {Kind.USER: SCIM_USER, Kind.GROUP: SCIM_GROUP}
AMBIGUOUS = "the match is ambiguous: more than one user has this claim, or another SCIM user stands for that user"


@dataclass(frozen=True, slots=True)
class Search:
    """Which resources of a kind are wanted."""

    kind: Kind
    start: int
    """From 1."""
    count: int
    which: Sequence[sa.ColumnElement[bool]] = ()
    """What the database decides."""
    matches: Callable[[Resource], bool] | None = None
    """What it cannot."""
    parts: int = 1
    """Of how many comparisons `matches` consists."""
    sort: Callable[[Sequence[Resource]], list[Resource]] | None = None
    """None: by creation."""
    with_members: bool = True
    """Whether the members of groups, or the groups of users, are needed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A page of what was searched for."""

    total: int
    resources: list[Resource]


class Scim:
    """Secrets of SCIM clients, their resources, and the log of what they did."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    # For administrators

    async def refresh_secret(self, call: Call, organization_id: str, identity_provider_id: str) -> tuple[str, str]:
        """A new secret, and the revision token. Raises IdentityProviderNotFound."""

        def work(tx: Transaction) -> tuple[str, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return self._secret(identity_provider_id, done["number"]), present(tx, organization_id)
            store.identity_providers.get(tx, organization_id, identity_provider_id, lock=True)
            number = secrets.token_hex(16)
            secret = self._secret(identity_provider_id, number)
            store.scim.set_secret(tx, organization_id, identity_provider_id, hash_secret(secret))
            requests.record(tx, call, identity_provider_id, number=number)
            return secret, publish(tx, organization_id)

        return await self._database.write(work)

    async def events(self, organization_id: str, identity_provider_id: str, page: Page) -> Sequence[ScimEvent]:
        """Raises IdentityProviderNotFound."""

        def read(tx: Transaction) -> Sequence[ScimEvent]:
            store.identity_providers.get(tx, organization_id, identity_provider_id)
            return store.scim.events(tx, organization_id, identity_provider_id, page)

        return await self._database.read(read)

    # For SCIM clients

    async def client(self, identity_provider_id: str, bearer: str) -> Client:
        """Whose secret it is, compared in constant time (invariant I-31).

        Raises UnauthorizedException, and ForbiddenException while SCIM is switched off.
        """
        try:
            prefix, named = split_secret(bearer)
        except CredentialsInvalid:
            prefix = named = ""
        if prefix != PREFIX or named != identity_provider_id:
            raise UnauthorizedException

        def read(tx: Transaction) -> Client:
            found = store.scim.secret_of(tx, identity_provider_id)
            if found is None or not equal(found[1], hash_secret(bearer)):
                raise UnauthorizedException
            client = Client(found[0], identity_provider_id)
            _settings(_provider(tx, client))
            return client

        return await self._database.read(read)

    async def get(self, client: Client, kind: Kind, resource_id: str, *, with_members: bool = True) -> Resource:
        """With the members of a group, or the groups of a user. Raises NotFoundException."""

        def read(tx: Transaction) -> Resource:
            found = _get(tx, client, kind, resource_id)
            return _with_members(tx, client, kind, [found])[0] if with_members else found

        return await self._database.read(read)

    async def search(self, client: Client, search: Search) -> Found:
        """Raises TooManyException where too many would have to be compared."""

        def read(tx: Transaction) -> Found:
            key = client.organization_id, client.identity_provider_id, search.kind
            total = store.scim.count(tx, *key, *search.which)
            if search.matches is None and search.sort is None:
                offset = min(search.start - 1, LIMITS[search.kind])
                shown = store.scim.some(tx, *key, offset, search.count, *search.which)
                return Found(total, _page(tx, client, search, shown))
            if total > COMPARED or total * search.parts > COMPARISONS:
                raise TooManyException(
                    detail=f"{total} resources would have to be compared, which is too many for this filter or sortBy; "
                    "add a condition on userName, externalId, displayName of groups, id, active or meta"
                )
            found = store.scim.some(tx, *key, 0, COMPARED, *search.which)
            if search.matches is not None:
                if search.with_members:
                    found = _with_members(tx, client, search.kind, found)
                found = [it for it in found if search.matches(it)]
            if search.sort is not None:
                found = search.sort(found)
            return Found(len(found), _page(tx, client, search, found[search.start - 1 :][: search.count]))

        return await self._database.read(read)

    async def create(self, client: Client, draft: Resource, method: str) -> Resource:
        """Raises UniquenessException, InvalidValueException, PayloadTooLargeException and ForbiddenException."""

        def work(tx: Transaction) -> Resource:
            provider = _provider(tx, client, lock=True)
            kind, limit = draft.kind, LIMITS[draft.kind]
            if store.scim.count(tx, client.organization_id, client.identity_provider_id, kind) >= limit:
                raise ForbiddenException(detail=f"there are {limit} {kind.name.lower()}s already; delete one first")
            made = replace(draft, resource_id=new_id(ID_PREFIX[kind], tx.now), create_time=tx.now, update_time=tx.now)
            _check(tx, client, made)
            made = _linked(tx, client, provider, [made], strict=True)[0]
            store.scim.insert(tx, client.organization_id, client.identity_provider_id, made)
            _put_members(tx, client, made, (), made.members)
            held = _follow(tx, client, provider, None, made, {it.resource_id for it in made.members})
            _note(tx, client, method, 201, made, held=held)
            return _with_members(tx, client, kind, [made])[0]

        return await self._write(client, work)

    async def change(
        self,
        client: Client,
        kind: Kind,
        resource_id: str,
        method: str,
        changed: Callable[[Resource], Resource],
        among: Collection[str] | None = None,
    ) -> Resource:
        """Makes a resource what `changed` makes of it, which may raise; with the members that it was given.

        `among` are the members of a group that it has to see; None is all of them. Raises what `create` does, and
        NotFoundException.
        """

        def work(tx: Transaction) -> Resource:
            provider = _provider(tx, client, lock=True)
            before = _get(tx, client, kind, resource_id)
            if kind is Kind.GROUP:
                key = client.organization_id, client.identity_provider_id, resource_id
                before = replace(before, members=store.scim.members(tx, *key, among))
            wanted = changed(before)
            after = replace(wanted, version=before.version, update_time=before.update_time)
            touched = _touched(before, after)
            if after != before or before.members != after.members:
                after = replace(after, version=before.version + 1, update_time=tx.now)
                _check(tx, client, after)
            if kind is Kind.USER:
                settings = _settings(provider)
                if _match_value(settings, before) != _match_value(settings, after):
                    after = replace(after, user_id="")
                after = _linked(tx, client, provider, [after], strict=True)[0]
            if after != before or before.members != after.members:
                store.scim.update(tx, client.organization_id, client.identity_provider_id, after)
                _put_members(tx, client, after, before.members, after.members)
            held = _follow(tx, client, provider, before, after, touched)
            _note(tx, client, method, 200, after, held=held)
            return after

        return await self._write(client, work)

    async def delete(
        self, client: Client, kind: Kind, resource_id: str, method: str, check: Callable[[Resource], None]
    ) -> None:
        """Raises NotFoundException, what `check` does, and UniquenessException for an ambiguous match."""

        def work(tx: Transaction) -> None:
            provider = _provider(tx, client, lock=True)
            before = _get(tx, client, kind, resource_id)
            check(before)
            key = client.organization_id, client.identity_provider_id, resource_id
            touched: set[str] = set()
            if kind is Kind.GROUP:
                touched = {it.resource_id for it in store.scim.members(tx, *key)}
            else:
                before = _linked(tx, client, provider, [before], strict=True)[0]
            store.scim.delete(tx, *key)
            held = _follow(tx, client, provider, before, None, touched)
            _note(tx, client, method, 204, before, held=held)

        await self._write(client, work)

    async def failed(
        self, client: Client, method: str, kind: Kind | None, resource_id: str, error: SCIMException
    ) -> None:
        """Puts a request that was refused into the log."""

        def work(tx: Transaction) -> None:
            resource_type = kind.name.title() if kind else ""
            refused = ScimEvent(
                new_id(SCIM_EVENT, tx.now),
                client.identity_provider_id,
                tx.now,
                method,
                resource_type,
                resource_id,
                "",
                "",
                error.status,
                str(error)[:300],
            )
            store.scim.note(tx, client.organization_id, refused)

        await self._database.write(work)

    async def run(self) -> None:
        """For ever, forgets old events, and what was provisioned by providers that are gone."""
        while True:
            try:
                while await self.forget_once():
                    pass
            except GuardhouseError as error:
                log.warning("cannot forget what SCIM has left: %s", error.message)
            await asyncio.sleep(FORGET_SECONDS)

    async def forget_once(self) -> int:
        """A part of it; answers how many rows."""

        def work(tx: Transaction) -> int:
            events = store.scim.forget_events(tx, tx.now - KEEP, KEEP_EVENTS, FORGET_ROWS)
            return events + store.scim.forget_orphans(tx, FORGET_ROWS)

        return await self._database.write(work)

    async def _write(self, client: Client, work: Callable[[Transaction], T]) -> T:
        # All of a provider's requests wait for its row.
        return await self._database.write(work, turn=client.name)

    def _secret(self, identity_provider_id: str, number: str) -> str:
        return format_secret(
            PREFIX, identity_provider_id, self._master_key.derive("scim", identity_provider_id, number)
        )


def _provider(tx: Transaction, client: Client, *, lock: bool = False) -> IdentityProvider:
    """Raises UnauthorizedException when it has gone meanwhile, and ForbiddenException when it was switched off."""
    key = client.organization_id, client.identity_provider_id
    try:
        found = store.identity_providers.get(tx, *key, lock=lock)
    except IdentityProviderNotFound:
        raise UnauthorizedException from None
    _settings(found)
    return found


def _settings(provider: IdentityProvider) -> ScimSettings:
    if provider.scim is None or not provider.scim.enabled:
        raise ForbiddenException(detail="SCIM is switched off for this identity provider")
    return provider.scim


def _get(tx: Transaction, client: Client, kind: Kind, resource_id: str) -> Resource:
    found = store.scim.get(tx, client.organization_id, client.identity_provider_id, kind, resource_id)
    if found is None:
        raise NotFoundException(detail=f"there is no such {kind.name.lower()}")
    return found


def _check(tx: Transaction, client: Client, wanted: Resource) -> None:
    """Raises UniquenessException and PayloadTooLargeException."""
    key = client.organization_id, client.identity_provider_id, wanted.kind
    if wanted.kind is Kind.USER:
        named = store.scim.named(tx, *key, wanted.name_key)
        if named is not None and named.resource_id != wanted.resource_id:
            raise UniquenessException(detail="another user has this userName")
    if wanted.external_id is not None:
        other = store.scim.with_external_id(tx, *key, wanted.external_id)
        if other is not None and other.resource_id != wanted.resource_id:
            raise UniquenessException(detail=f"another {wanted.kind.name.lower()} has this externalId")
    if len(json.dumps(wanted.document)) > DOCUMENT_BYTES:
        raise PayloadTooLargeException(detail=f"a resource has at most {DOCUMENT_BYTES >> 10} KiB")


def _page(tx: Transaction, client: Client, search: Search, shown: list[Resource]) -> list[Resource]:
    """The resources as they are shown. Groups of many members share a page with fewer."""
    if not search.with_members:
        return shown
    if search.kind is Kind.GROUP:
        key = client.organization_id, client.identity_provider_id
        filled = 0
        for place, group in enumerate(shown):
            filled += store.scim.count_members(tx, *key, group.resource_id)
            if place and filled > SHOWN_MEMBERS:
                shown = shown[:place]
                break
    return _with_members(tx, client, search.kind, shown)


def _with_members(tx: Transaction, client: Client, kind: Kind, resources: Sequence[Resource]) -> list[Resource]:
    key = client.organization_id, client.identity_provider_id
    if kind is Kind.GROUP:
        return [replace(it, members=store.scim.members(tx, *key, it.resource_id)) for it in resources]
    groups = store.scim.groups_of(tx, *key, [it.resource_id for it in resources])
    return [replace(it, members=tuple(groups.get(it.resource_id, ())[:GROUPS])) for it in resources]


def _touched(before: Resource, after: Resource) -> set[str]:
    """The members who joined or left a group."""
    if before.kind is not Kind.GROUP:
        return set()
    return {it.resource_id for it in before.members} ^ {it.resource_id for it in after.members}


def _put_members(
    tx: Transaction, client: Client, group: Resource, before: Sequence[Member], after: Sequence[Member]
) -> None:
    """Raises InvalidValueException for a member that there is not, and for too many."""
    if group.kind is not Kind.GROUP or before == after:
        return
    key = client.organization_id, client.identity_provider_id
    old = {it.resource_id: it for it in before}
    new = {it.resource_id: it for it in after}
    joined = new.keys() - old.keys()
    if len(store.scim.of_ids(tx, *key, joined)) != len(joined):
        raise InvalidValueException(detail="a member is the id of a user or group that was provisioned here")
    put = [it for resource_id, it in new.items() if old.get(resource_id) != it]
    store.scim.change_members(tx, *key, group.resource_id, put, old.keys() - new.keys())
    if store.scim.count_members(tx, *key, group.resource_id) > MEMBERS:
        raise InvalidValueException(detail=f"a group has at most {MEMBERS} members")


def _match_value(settings: ScimSettings, of: Resource) -> str:
    return of.name if settings.match_attribute is MatchAttribute.USER_NAME else of.external_id or ""


def _linked(
    tx: Transaction, client: Client, provider: IdentityProvider, resources: Sequence[Resource], *, strict: bool = False
) -> list[Resource]:
    """The SCIM users with the users whom they stand for, as far as somebody who matches has authenticated.

    A link that holds stays until the matched attribute changes: an address that passes to somebody else takes nobody
    along (invariant I-32). Raises UniquenessException for an ambiguous match if `strict`, else leaves those out.
    """
    settings = _settings(provider)
    open_ = [it for it in resources if it.kind is Kind.USER and not it.user_id and _match_value(settings, it)]
    if not open_:
        return list(resources)
    values = [_match_value(settings, it) for it in open_]
    matching = store.scim.matching(tx, client.organization_id, provider.issuer, settings.match_claim, values)
    taken = store.scim.standing_for(tx, client.organization_id, [user for ids in matching.values() for user in ids])
    links = {}
    for value, resource in zip(values, open_, strict=True):
        user_ids = matching.get(value, [])
        if len(user_ids) > 1 or any(
            taken.get(user_id, resource.resource_id) != resource.resource_id for user_id in user_ids
        ):
            if strict:
                raise UniquenessException(detail=AMBIGUOUS)
        elif user_ids:
            links[resource.resource_id] = user_ids[0]
    return [replace(it, user_id=links.get(it.resource_id, it.user_id)) for it in resources]


def _follow(
    tx: Transaction,
    client: Client,
    provider: IdentityProvider,
    before: Resource | None,
    after: Resource | None,
    touched: Collection[str],
) -> bool:
    """What follows for users from a change of a resource. Whether it waits for approval."""
    settings = _settings(provider)
    now = after or before
    if now is None:
        raise AssertionError("unreachable: something has changed")
    if now.kind is Kind.USER:
        return _follow_user(tx, client, settings, before, after, now.user_id)
    renamed = set[str]()
    is_shown = settings.identity_update_behavior is UpdateBehavior.AUTOMATIC
    if is_shown and before is not None and after is not None and before.name != after.name:
        key = client.organization_id, client.identity_provider_id, now.resource_id
        renamed = {it.resource_id for it in store.scim.members(tx, *key)}
    return _follow_group(tx, client, provider, settings, touched, renamed)


def _follow_user(
    tx: Transaction,
    client: Client,
    settings: ScimSettings,
    before: Resource | None,
    after: Resource | None,
    user_id: str,
) -> bool:
    if not user_id:
        return False
    was_gone = before is not None and not before.active and before.user_id == user_id
    if after is None or not after.active:
        return False if was_gone else not _deprovision(tx, client, settings, user_id)
    if was_gone:
        breaker.forgo(tx, client.organization_id, client.name, [user_id])
    if settings.identity_update_behavior is UpdateBehavior.AUTOMATIC:
        (user,) = store.users.lock(tx, client.organization_id, [user_id])
        profile = replace(
            user.profile,
            email=email_of(after.document)[:EMAIL] or user.profile.email,
            display_name=display_name_of(after.document)[:DISPLAY_NAME] or user.profile.display_name,
        )
        if profile != user.profile:
            user = replace(user, profile=profile)
            store.users.save(tx, client.organization_id, [user])
            publish(tx, client.organization_id, [messages.user_event(user)])
    return False


def _deprovision(tx: Transaction, client: Client, settings: ScimSettings, user_id: str) -> bool:
    """Ends the sessions, and frees the seat, as far as the settings say. False: it waits for approval."""
    if not settings.user_deprovision:
        return True
    effect = Effect.REMOVE if settings.seat_deprovision else Effect.REVOKE
    if not breaker.passes(tx, client.organization_id, client.name, [user_id], effect):
        return False
    users = store.users.lock(tx, client.organization_id, [user_id])
    if effect is Effect.REMOVE:
        removal = removing.begin(tx, client.organization_id, users, FreeCause.DEPROVISIONED)
        removing.finish(tx, client.organization_id, users, removal.removal_id)
    else:
        removing.revoke(tx, client.organization_id, users)
    return True


def _follow_group(
    tx: Transaction,
    client: Client,
    provider: IdentityProvider,
    settings: ScimSettings,
    touched: Collection[str],
    renamed: Collection[str],
) -> bool:
    """`touched` are the members who joined or left."""
    organization_id, behavior = client.organization_id, settings.identity_update_behavior
    if behavior is UpdateBehavior.NO_ACTION:
        return False
    key = organization_id, client.identity_provider_id
    whom = touched if behavior is UpdateBehavior.REAUTH else {*touched, *renamed}
    found = store.scim.of_ids(tx, *key, whom)
    linked = _linked(tx, client, provider, found)
    for old, new in zip(found, linked, strict=True):
        if old.user_id != new.user_id:
            store.scim.link(tx, *key, new.resource_id, new.user_id)
    members = {it.user_id: it.resource_id for it in linked if it.user_id and it.active}
    if not members:
        return False
    if behavior is UpdateBehavior.REAUTH:
        if not breaker.passes(tx, organization_id, f"{client.name} groups", list(members), Effect.REVOKE):
            return True
        removing.revoke(tx, organization_id, store.users.lock(tx, organization_id, list(members)))
        return False
    groups = store.scim.groups_of(tx, *key, list(members.values()))
    users, changed = [], []
    for user in store.users.lock(tx, organization_id, list(members)):
        names = dict.fromkeys(it.display or "" for it in groups.get(members[user.user_id], ()))
        users.append(user.provisioned(tuple(name[:GROUP] for name in names)[:GROUPS], tx.now))
        if users[-1].profile != user.profile:
            changed.append(users[-1])
    store.users.save(tx, organization_id, users)
    if changed:
        publish(tx, organization_id, [messages.user_event(user) for user in changed])
    return False


def _note(tx: Transaction, client: Client, method: str, status: int, of: Resource, *, held: bool) -> None:
    """In the SCIM log, and in the audit log (invariant I-33)."""
    kind = of.kind.name.title()
    event = ScimEvent(
        new_id(SCIM_EVENT, tx.now),
        client.identity_provider_id,
        tx.now,
        method,
        kind,
        of.resource_id,
        of.external_id or "",
        of.user_id,
        status,
        held=held,
    )
    store.scim.note(tx, client.organization_id, event)
    objects = [of.resource_id, *filter(None, [of.user_id])]
    audit.note_entry(tx, audit.Entry(client.organization_id, client.name, f"SCIM {method} {kind}", objects))
