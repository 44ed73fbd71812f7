"""Named lists: what is kept, what is refused while policies use them, what is published; on both engines."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import (
    EtagMismatch,
    FieldRequired,
    InvalidField,
    LimitReached,
    ListExists,
    ListInUse,
    ListNotFound,
    OrganizationNotFound,
    RequestIdReused,
)
from guardhouse.expressions import read_texts
from guardhouse.policies import CONNECTION
from guardhouse.replica import PolicyState
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.session.usecases import snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.session.service import Service
from tests.guardhouse_services.session.world import ORGANIZATION, OTHER_ORGANIZATION

NO_LIST = "lst_" + "f" * 32
USES = "net.dst.ip in $wiki"


async def create(
    service: Service, name: str = "wiki", request_id: str = "", organization_id: str = ORGANIZATION, **fields: Any
) -> Any:
    values = {"type": pb.LIST_TYPE_IP, "values": ["10.0.0.0/8"]}
    request = pb.CreateListRequest(organization_id=organization_id, list=pb.List(name=name, **{**values, **fields}))
    return await service(request, request_id)


async def update(service: Service, list_id: str, *paths: str, request_id: str = "", **fields: Any) -> Any:
    request = pb.UpdateListRequest(
        organization_id=ORGANIZATION,
        list=pb.List(list_id=list_id, **fields),
        update_mask=FieldMask(paths=paths or list(fields)),
    )
    return await service(request, request_id)


async def delete(service: Service, list_id: str, request_id: str = "", **fields: Any) -> Any:
    return await service(pb.DeleteListRequest(organization_id=ORGANIZATION, list_id=list_id, **fields), request_id)


async def get(service: Service, list_id: str, organization_id: str = ORGANIZATION) -> pb.List:
    found: pb.List = (await service(pb.GetListRequest(organization_id=organization_id, list_id=list_id))).list
    return found


async def listed(service: Service) -> list[pb.List]:
    return list((await service(pb.ListListsRequest(organization_id=ORGANIZATION))).lists)


async def test_a_list_is_kept_with_its_values_in_order_and_each_once(service: Service, clock: FakeClock) -> None:
    clock.stop()
    values = ["10.0.0.9", "2001:db8::/32", "10.0.0.1..10.0.0.9", "10.0.0.9", "2001:db8::/32"]
    reply = await create(service, description="Where pages are", values=values)
    kept = await get(service, reply.list.list_id)
    assert kept == reply.list
    assert list(kept.values) == values[:3]
    assert (kept.name, kept.description, kept.type, kept.value_count) == ("wiki", "Where pages are", pb.LIST_TYPE_IP, 3)
    assert kept.create_time == kept.update_time
    assert kept.create_time.ToMicroseconds() == clock.now()
    assert kept.etag
    (shown,) = await listed(service)
    assert (list(shown.values), shown.value_count, shown.etag) == ([], 3, "")
    assert (await create(service, "empty", values=[])).list.value_count == 0


VALUES: list[tuple["pb.ListType.ValueType", str, str]] = [
    (pb.LIST_TYPE_IP, "::1", "example.com"),
    (pb.LIST_TYPE_HOST, "Wiki.Example.com.", "a\nb"),
    (pb.LIST_TYPE_EMAIL, "Eve@Example.com", "x" * 321),
    (pb.LIST_TYPE_TEXT, "C02 X", " "),
    (pb.LIST_TYPE_INTEGER, "8000..8080", "80-90"),
]


async def test_values_are_what_the_type_says(service: Service) -> None:
    """The one at fault is named by its place, in a new list as in one that is changed."""
    for type_, good, bad in VALUES:
        made = (await create(service, f"list-{type_}", type=type_, values=[good])).list
        assert list(made.values) == [good]
        for call in (
            create(service, "another", type=type_, values=[good, bad]),
            update(service, made.list_id, values=[good, bad]),
        ):
            with pytest.raises(InvalidField) as caught:
                await call
            assert caught.value.field == "list.values[1]"
        assert await get(service, made.list_id) == made


async def test_a_list_has_five_thousand_values_and_no_more(service: Service) -> None:
    values = [f"10.0.{number // 250}.{number % 250}" for number in range(5001)]
    made = (await create(service, values=values[:5000])).list
    assert made.value_count == 5000
    assert list((await get(service, made.list_id)).values) == values[:5000]
    with pytest.raises(InvalidField) as caught:
        await update(service, made.list_id, values=values)
    assert caught.value.field == "list.values"


async def test_a_field_at_fault_is_named(service: Service) -> None:
    wrong: list[tuple[dict[str, Any], str, type[InvalidField]]] = [
        ({"name": ""}, "list.name", FieldRequired),
        *(({"name": name}, "list.name", InvalidField) for name in ("-a", "a b", "$a", "a.b", "x" * 51, "wiki\n")),
        ({"type": 0}, "list.type", FieldRequired),
        ({"type": 6}, "list.type", InvalidField),
        ({"description": "x" * 501}, "list.description", InvalidField),
    ]
    for fields, field, error in wrong:
        with pytest.raises(error) as caught:
            await create(service, **fields)
        assert (type(caught.value), caught.value.field) == (error, field)
    assert await listed(service) == []


async def test_what_is_required_is_named(service: Service) -> None:
    for request, field in (
        (pb.CreateListRequest(organization_id=ORGANIZATION), "list"),
        (pb.GetListRequest(organization_id=ORGANIZATION), "list_id"),
        (pb.UpdateListRequest(organization_id=ORGANIZATION), "list.list_id"),
        (pb.UpdateListRequest(organization_id=ORGANIZATION, list=pb.List(list_id=NO_LIST)), "update_mask"),
    ):
        with pytest.raises(FieldRequired) as caught:
            await service(request)
        assert caught.value.field == field
    with pytest.raises(OrganizationNotFound):
        await create(service, organization_id="org_" + "9" * 32)


async def test_a_name_is_of_one_list_to_the_letter(service: Service) -> None:
    """In the organization; decision 30a: with dashes if people like."""
    made = (await create(service, "our-wiki_2")).list
    other = (await create(service, "Our-Wiki_2")).list
    await create(service, "our-wiki_2", organization_id=OTHER_ORGANIZATION)
    for call in (create(service, "our-wiki_2"), update(service, other.list_id, name="our-wiki_2")):
        with pytest.raises(ListExists) as caught:
            await call
        assert caught.value.metadata == {"name": "our-wiki_2"}
    assert (await update(service, made.list_id, name="our-wiki_2")).list.name == "our-wiki_2"
    results = await asyncio.gather(*(create(service, "at-once") for _ in range(4)), return_exceptions=True)
    refused = [type(each) for each in results if isinstance(each, BaseException)]
    assert refused == [ListExists] * 3


async def test_an_organization_has_room_for_so_many_lists(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public account limits, in small."""
    monkeypatch.setattr("guardhouse_services.session.store.lists.LIMIT", 2)
    first = (await create(service, "a")).list
    await create(service, "b")
    await create(service, "c", organization_id=OTHER_ORGANIZATION)
    with pytest.raises(LimitReached) as caught:
        await create(service, "c")
    assert caught.value.metadata == {"limit": "2"}
    await delete(service, first.list_id)
    await create(service, "c")


async def test_an_update_changes_what_the_mask_names(service: Service, clock: FakeClock) -> None:
    clock.stop()
    made = (await create(service, description="Old")).list
    clock.advance(5)
    changed = (await update(service, made.list_id, "values", values=["10.0.0.1", "10.0.0.2"], name="ignored")).list
    assert (list(changed.values), changed.value_count) == (["10.0.0.1", "10.0.0.2"], 2)
    assert (changed.name, changed.description, changed.create_time) == ("wiki", "Old", made.create_time)
    assert changed.update_time.ToMicroseconds() == clock.now()
    renamed = (await update(service, made.list_id, "name", "description", name="pages")).list
    assert (renamed.name, renamed.description, list(renamed.values)) == ("pages", "", list(changed.values))
    assert await get(service, made.list_id) == renamed
    for path in ("type", "list_id", "value_count", "nonsense"):
        with pytest.raises(InvalidField) as caught:
            await update(service, made.list_id, path)
        assert caught.value.field == "update_mask"


async def test_a_list_is_changed_as_it_was_read(service: Service, clock: FakeClock) -> None:
    """AIP-154: without an etag the last change wins."""
    made = (await create(service)).list
    clock.advance(1)
    changed = (await update(service, made.list_id, "values", values=[], etag=made.etag)).list
    assert changed.etag != made.etag
    for call in (
        update(service, made.list_id, "name", name="pages", etag=made.etag),
        delete(service, made.list_id, etag=made.etag),
        delete(service, made.list_id, etag=made.etag, validate_only=True),
    ):
        with pytest.raises(EtagMismatch):
            await call
    assert await get(service, made.list_id) == changed
    await update(service, made.list_id, description="Pages")
    await delete(service, made.list_id, etag=(await get(service, made.list_id)).etag)


async def test_a_list_that_a_policy_uses_keeps_its_name_and_stays(service: Service) -> None:
    """Its values may change at any time; another list's users are none of its business."""
    made = (await create(service)).list
    other = (await create(service, "wik")).list
    policy_id = (await service.create(enabled=False, traffic=f"not ({USES})")).policy.policy_id
    await delete(service, other.list_id)
    for call in (
        update(service, made.list_id, name="pages"),
        delete(service, made.list_id),
        delete(service, made.list_id, validate_only=True),
    ):
        with pytest.raises(ListInUse) as caught:
            await call
        assert caught.value.metadata == {"policy_ids": policy_id}
    await update(service, made.list_id, "name", "values", name="wiki", values=["10.0.0.1"])
    await service.update(policy_id, "traffic", traffic="net.dst.port == 1")
    renamed = (await update(service, made.list_id, name="pages")).list
    with pytest.raises(InvalidField) as caught_field:
        await service.create(traffic=USES)
    assert caught_field.value.field == "policy.traffic"
    policy_id = (await service.create(traffic="net.dst.ip in $pages")).policy.policy_id
    await service.delete(policy_id)
    await delete(service, renamed.list_id)


async def test_a_list_does_not_go_while_a_policy_begins_to_use_it(service: Service) -> None:
    """Of the two at once one is refused, and never are both done."""
    for _ in range(5):
        list_id = (await create(service)).list.list_id
        both: Any = await asyncio.gather(delete(service, list_id), service.create(traffic=USES), return_exceptions=True)
        deleted, created = both
        if isinstance(created, InvalidField):
            assert not isinstance(deleted, BaseException)
        else:
            assert isinstance(deleted, ListInUse)
            await service.delete(created.policy.policy_id)
            await delete(service, list_id)


async def test_what_a_list_cannot_hold_for_a_field_is_refused(service: Service) -> None:
    await create(service, type=pb.LIST_TYPE_HOST, values=["wiki.example"])
    with pytest.raises(InvalidField) as caught:
        await service.create(traffic=USES)
    assert caught.value.field == "policy.traffic"
    assert "column 1:" in caught.value.message
    assert (await service.create(traffic="net.sni.host in $wiki")).policy.policy_id


async def test_lists_of_another_organization_do_not_exist(service: Service) -> None:
    """I-27: in no call, nor to an expression; and the foreign one answers as the unknown one does."""
    foreign = (await create(service, organization_id=OTHER_ORGANIZATION)).list.list_id
    for list_id in (foreign, NO_LIST):
        for call in (
            get(service, list_id),
            update(service, list_id, description="x"),
            delete(service, list_id),
            delete(service, list_id, validate_only=True),
        ):
            with pytest.raises(ListNotFound):
                await call
    with pytest.raises(InvalidField):
        await service.create(traffic=USES)
    assert await listed(service) == []
    assert (await get(service, foreign, OTHER_ORGANIZATION)).name == "wiki"


async def test_a_repeated_request_has_one_effect(service: Service) -> None:
    """I-07: and the answer of the first time, with its values, whatever has become of the list since."""
    first = await create(service, request_id="r1")
    list_id = first.list.list_id
    changed = await update(service, list_id, "values", values=["::1"], etag=first.list.etag, request_id="r2")
    tried = await delete(service, list_id, "r3", validate_only=True)
    assert tried == pb.DeleteListResponse(list=changed.list)
    gone = await delete(service, list_id, "r3")
    assert (gone.list, bool(gone.revision_token)) == (changed.list, True)
    assert await create(service, request_id="r1") == first
    assert await update(service, list_id, "values", values=["::1"], etag=first.list.etag, request_id="r2") == changed
    assert await delete(service, list_id, "r3") == gone
    with pytest.raises(RequestIdReused):
        await create(service, "another", "r1")
    assert await listed(service) == []
    assert await service.revision() == 3
    records = await service.records()
    assert [record.method for record in records] == ["/CreateList", "/UpdateList", "/DeleteList"]
    assert {tuple(record.objects) for record in records} == {(list_id,)}


async def test_lists_come_in_pages_by_creation(service: Service, clock: FakeClock) -> None:
    """AIP-158."""
    for number in range(5):
        clock.advance(1)
        await create(service, f"{number}")
    names, token = [], ""
    for size in (2, 2, 1):
        page = await service(pb.ListListsRequest(organization_id=ORGANIZATION, page_size=2, page_token=token))
        assert len(page.lists) == size
        names += [each.name for each in page.lists]
        token = page.next_page_token
    assert (names, token) == (["0", "1", "2", "3", "4"], "")


async def test_a_snapshot_has_lists_with_their_values_before_the_policies_that_use_them(service: Service) -> None:
    """I-22: whatever the size of a page; and what a replica makes of it is what was written."""
    await create(service)
    await create(service, "empty", values=[])
    policy_id = (await service.create(traffic=USES)).policy.policy_id
    await service.create(traffic="net.dst.ip in $empty")
    for size in (1, 2, 3, 4, 5):
        state = PolicyState(ORGANIZATION)
        kinds: list[str] = []
        after, more = "", True
        while more:
            events, after = await service.database.read(lambda tx: snapshot(tx, ORGANIZATION, after, size))  # noqa: B023
            assert len(events) <= size
            for event in events:
                kinds.append(event.WhichOneof("kind") or "")
                state.apply(event)
            more = bool(after)
        assert kinds == ["list", "list", "policy", "policy"]
        policies = state.compiled()
        everybody = policies.identity_mask({}) & policies.posture_mask({})
        matched = [it.policy_id for it in policies.match(CONNECTION, read_texts({"net.dst.ip": "10.1.2.3"}), everybody)]
        assert matched == [policy_id]
        assert not policies.match(CONNECTION, read_texts({"net.dst.ip": "192.0.2.1"}), everybody)
