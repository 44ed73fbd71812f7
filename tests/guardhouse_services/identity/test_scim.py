"""SCIM as a protocol (RFC 7643 and 7644): what clients ask for, and what they are answered."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from guardhouse.ids import SCIM_USER, check_id
from guardhouse_services.identity import store
from guardhouse_services.identity.scim import http
from guardhouse_services.identity.scim.http import _limited
from guardhouse_services.identity.usecases import scim
from guardhouse_services.rate_limit import RateLimit
from tests.guardhouse_services.identity.scim_client import GROUP, USER, ScimClient, serve
from tests.guardhouse_services.identity.world import World

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PEOPLE: list[dict[str, Any]] = [
    {"userName": "Ada", "displayName": "Ada L", "title": "Boss", "emails": [{"value": "ada@a.org", "type": "work"}]},
    {"userName": "bob", "active": False, "emails": [{"value": "b@a.org", "type": "home", "primary": True}]},
    {"userName": "carol_1", "title": "boss", ENTERPRISE: {"department": "R&D"}},
    {"userName": "dora%", "name": {"familyName": "Zett"}, "nickName": "D"},
]


@pytest.fixture
async def client(world: World) -> AsyncIterator[ScimClient]:
    async with serve(world) as url:
        client = ScimClient(world, url)
        await client.start()
        yield client
        await client.http.aclose()


@pytest.fixture
async def people(client: ScimClient) -> dict[str, Any]:
    """Those of PEOPLE, and a group of the first two."""
    made = {person["userName"]: await client.ask("POST", "/Users", {"schemas": [USER], **person}) for person in PEOPLE}
    made["group"] = await client.group("Builders", made["Ada"], made["bob"])
    return made


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_every_check_of_the_judge_is_green(world: World, client: ScimClient) -> None:
    """RFC 7644, as scim2-tester reads it; anything but success makes it exit with 1."""
    command = [
        str(Path(sys.executable).with_name("scim")),
        "--url",
        f"{client.http.base_url}/scim/v2/{client.provider_id}",
    ]
    judge = await asyncio.create_subprocess_exec(
        *command,
        "test",
        env={**os.environ, "SCIM_CLI_HEADERS": f"Authorization: Bearer {client.secret}"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await judge.communicate()
    assert judge.returncode == 0, said.decode()
    assert said.decode().count("SUCCESS") > 100


FILTERS = {
    'userName eq "ada"': ["Ada"],
    'USERNAME Eq "ADA"': ["Ada"],
    'userName ne "ada"': ["bob", "carol_1", "dora%"],
    'userName sw "c"': ["carol_1"],
    'userName ew "_1"': ["carol_1"],
    'userName co "_"': ["carol_1"],
    'userName co "%"': ["dora%"],
    'userName gt "bob"': ["carol_1", "dora%"],
    'userName le "BOB"': ["Ada", "bob"],
    'title eq "BOSS"': ["Ada", "carol_1"],
    "title pr": ["Ada", "carol_1"],
    "not (title pr)": ["bob", "dora%"],
    'not (userName eq "ada")': ["bob", "carol_1", "dora%"],
    "externalId pr": [],
    'not (externalId eq "x")': ["Ada", "bob", "carol_1", "dora%"],
    "active eq false": ["bob"],
    "active ne false and title pr": ["Ada", "carol_1"],
    'emails[type eq "work" and value co "@a.org"]': ["Ada"],
    'emails[type eq "work"].value eq "ada@a.org"': ["Ada"],
    'emails.value sw "b@"': ["bob"],
    'emails co "a.org"': ["Ada", "bob"],
    'name.familyName eq "zett"': ["dora%"],
    f'{ENTERPRISE}:department eq "r&d"': ["carol_1"],
    f'{USER}:userName eq "bob"': ["bob"],
    'title eq "boss" or nickName pr and userName sw "d"': ["Ada", "carol_1", "dora%"],
    '(title eq "boss" or nickName pr) and userName sw "d"': ["dora%"],
    'userName eq "ada" or active eq false': ["Ada", "bob"],
    'not (userName eq "ada" or title pr) and active eq true': ["dora%"],
    'meta.created gt "2020-01-01T00:00:00Z" and userName eq "bob"': ["bob"],
    'meta.lastModified lt "2020-01-01T00:00:00Z"': [],
    'meta.resourceType eq "User" and nickName eq "d"': ["dora%"],
    'groups.display eq "builders"': ["Ada", "bob"],
    "groups pr": ["Ada", "bob"],
}


@pytest.mark.usefixtures("people")
async def test_filters_find_what_they_say(client: ScimClient) -> None:
    """RFC 7644, section 3.4.2.2: operators, grouping, precedence, value paths, extensions, case."""
    for filter_, expected in FILTERS.items():
        assert sorted(await client.names(filter_)) == sorted(expected), filter_


async def test_filters_by_id_and_membership(client: ScimClient, people: dict[str, Any]) -> None:
    ada, group = people["Ada"]["id"], people["group"]["id"]
    assert await client.names(f'id eq "{ada}"') == ["Ada"]
    assert await client.names(f'groups.value eq "{group}" and title pr') == ["Ada"]
    for filter_ in (
        f'members eq "{ada}"',
        f'members.value eq "{ada}"',
        f'members[value eq "{ada}"]',
        'displayName sw "b"',
    ):
        assert await client.names(filter_, "Groups") == ["Builders"], filter_
    assert await client.names(f'members eq "{people["dora%"]["id"]}"', "Groups") == []
    assert await client.names(f'not (members[value eq "{ada}"])', "Groups") == []
    assert await client.names('members[type eq "User"]', "Groups") == ["Builders"]


BAD_FILTERS = [
    *("userName eq", "userName", 'userName zz "a"', 'nothing eq "a"', "active gt true", 'userName eq "a" and'),
    *('(userName eq "a"', "emails[type eq", 'meta.created gt "yesterday"', f'userName eq "{"x" * 4096}"'),
]


async def test_a_bad_filter_is_refused(client: ScimClient) -> None:
    for filter_ in BAD_FILTERS:
        answer = await client.send("POST", "/Users/.search", {"filter": filter_})
        assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidFilter"), filter_
        assert answer.headers["content-type"] == "application/scim+json"


async def test_what_would_take_too_long_is_refused(client: ScimClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant I-34: the database decides, or few are compared (RFC 7644, section 3.12: tooMany)."""
    for number in range(4):
        await client.user(f"user{number}", title="x")
    monkeypatch.setattr(scim, "COMPARED", 3)
    refused = await client.send("POST", "/Users/.search", {"filter": "title pr"})
    assert (refused.status_code, refused.json()["scimType"]) == (400, "tooMany")
    assert (await client.send("GET", "/Users?sortBy=title")).status_code == 400
    assert await client.names('title pr and userName eq "user2"') == ["user2"]
    assert len(await client.names('userName sw "user" and active eq true')) == 4
    monkeypatch.setattr(scim, "COMPARED", 4)
    monkeypatch.setattr(scim, "COMPARISONS", 7)
    assert (await client.send("POST", "/Users/.search", {"filter": "title pr and nickName pr"})).status_code == 400
    assert len(await client.names("title pr")) == 4


async def test_pages_are_of_the_size_that_is_asked_for(client: ScimClient) -> None:
    """RFC 7644, section 3.4.2.4; with a filter and sorted as well."""
    for number in range(7):
        await client.user(f"user{number}", title="ab"[number % 2])

    async def page(**parameters: Any) -> tuple[list[str], int, int, int]:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        found = await client.ask("GET", f"/Users?{query}")
        names = [it["userName"][4:] for it in found["Resources"]]
        return names, found["totalResults"], found["startIndex"], found["itemsPerPage"]

    assert await page(startIndex=3, count=2) == (["2", "3"], 7, 3, 2)
    assert await page(startIndex=0, count=1) == (["0"], 7, 1, 1)
    assert await page(startIndex=8, count=2) == ([], 7, 8, 0)
    assert await page(count=0) == ([], 7, 1, 0)
    assert await page(count=-1) == ([], 7, 1, 0)
    assert await page(startIndex=2, count=2, filter='title eq "b"') == (["3", "5"], 3, 2, 2)
    assert await page(sortBy="userName", sortOrder="descending", count=2) == (["6", "5"], 7, 1, 2)
    assert await page(startIndex=99999999999, count=1) == ([], 7, 99999999999, 0)
    assert (await client.send("GET", "/Users?count=many")).status_code == 400
    everything = await client.ask("POST", "/.search", {"startIndex": 7, "count": 5})
    await client.group("group")
    everything = await client.ask("POST", "/.search", {"startIndex": 7, "count": 5})
    assert [it.get("userName") or it["displayName"] for it in everything["Resources"]] == ["user6", "group"]
    assert everything["totalResults"] == 8


async def test_attributes_are_shown_and_left_out(client: ScimClient, people: dict[str, Any]) -> None:
    """RFC 7644, section 3.9; whatever is asked for, the id is shown."""
    path = f"/Users/{people['Ada']['id']}"
    assert await client.ask("GET", f"{path}?attributes=userName,emails.value") == {
        "schemas": [USER],
        "id": people["Ada"]["id"],
        "userName": "Ada",
        "emails": [{"value": "ada@a.org"}],
    }
    assert "groups" not in await client.ask("GET", f"{path}?excludedAttributes=groups")
    assert (await client.ask("GET", path))["groups"][0]["display"] == "Builders"
    assert "members" not in (await client.ask("GET", "/Groups?excludedAttributes=members"))["Resources"][0]
    both = await client.send("GET", f"{path}?attributes=userName&excludedAttributes=title")
    assert both.status_code == 400


async def test_etags_keep_changes_apart(client: ScimClient) -> None:
    """RFC 7644, section 3.14."""
    made = await client.user("ada")
    path, tag = f"/Users/{made['id']}", made["meta"]["version"]
    assert (await client.send("GET", path)).headers["etag"] == tag
    assert (await client.send("GET", path, if_none_match=tag)).status_code == 304
    body = {"schemas": [USER], "userName": "ada", "title": "Boss"}
    changed = await client.send("PUT", path, body, if_match=tag)
    assert changed.headers["etag"] == changed.json()["meta"]["version"] != tag
    for method, sent in (
        ("PUT", body),
        ("PATCH", {"Operations": [{"op": "remove", "path": "title"}]}),
        ("DELETE", None),
    ):
        stale = await client.send(method, path, sent, if_match=tag)
        assert (stale.status_code, stale.json()["status"]) == (412, "412"), method
    assert (await client.send("GET", path, if_none_match=tag)).json()["title"] == "Boss"
    same = await client.send("PUT", path, body, if_match=f'"x", {changed.headers["etag"]}')
    assert same.headers["etag"] == changed.headers["etag"], "nothing has changed"
    assert (await client.send("DELETE", path, if_match="*")).status_code == 204
    assert (await client.send("DELETE", path)).status_code == 404


async def test_names_are_unique(client: ScimClient) -> None:
    """RFC 7644, section 3.3: 409 and uniqueness, whatever the case; of groups several may have one name."""
    first = await client.user("ada", title="x")
    second = await client.user("bob")
    for body in ({"userName": "ADA"}, {"userName": "other", "externalId": "ada"}):
        for method, path in (("POST", "/Users"), ("PUT", f"/Users/{second['id']}")):
            answer = await client.send(method, path, {"schemas": [USER], **body})
            assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness"), (method, body)
    taken = await client.patch(second, {"op": "replace", "path": "externalId", "value": "ada"})
    assert taken.status_code == 409
    assert (await client.patch(first, {"op": "replace", "path": "userName", "value": "ADA"})).json()[
        "userName"
    ] == "ADA"
    await client.group("Same")
    await client.group("Same")


async def test_an_external_id_is_another_namespace(client: ScimClient) -> None:
    """Invariant I-32 and decision 8: never an id of ours, compared to the letter (CVE-2025-41115)."""
    external_ids = ["1", "01", "A", "a", client.organization_id, "\u00e9", "\u00c9", "x" * 255]
    for number, external_id in enumerate(external_ids):
        made = await client.user(f"user{number}", externalId=external_id, id=external_id)
        assert check_id(made["id"], SCIM_USER, "id") != external_id
        assert made["externalId"] == external_id
        assert (await client.send("GET", f"/Users/{external_id}")).status_code == 404
    for number, external_id in enumerate(external_ids):
        assert await client.names(f'externalId eq "{external_id}"') == [f"user{number}"]


NONSENSE: list[tuple[str, Any, int, str | None]] = [
    ("/Users", {}, 400, "invalidValue"),
    ("/Users", {"userName": " "}, 400, "invalidValue"),
    ("/Users", {"userName": "x" * 256}, 400, "invalidValue"),
    ("/Users", {"userName": "a\x00b"}, 400, "invalidValue"),
    ("/Users", {"userName": "a", "title": "a\x00b"}, 400, "invalidValue"),
    ("/Users", {"userName": "a", "externalId": "e\u0301"}, 400, "invalidValue"),
    ("/Users", {"userName": "a", "emails": "a@b.c"}, 400, "invalidValue"),
    ("/Users", {"userName": "a", "active": "perhaps"}, 400, "invalidValue"),
    ("/Users", {"userName": "a", "title": "x" * (65 << 10)}, 413, None),
    ("/Users", {"userName": "a", "title": "x" * (257 << 10)}, 413, None),
    ("/Users", [], 400, "invalidSyntax"),
    ("/Users", None, 400, "invalidSyntax"),
    ("/Groups", {"displayName": "a", "members": [{"value": "scu_" + "0" * 32}]}, 400, "invalidValue"),
    ("/Groups", {"displayName": "a", "members": [{"display": "nobody"}]}, 400, "invalidValue"),
    ("/Bulk", {}, 501, None),
    ("/Me", {}, 501, None),
    ("/Nothing", {}, 404, None),
    ("", {}, 404, None),
]


async def test_what_makes_no_sense_is_refused(client: ScimClient) -> None:
    """RFC 7644, section 3.12: an error says its status and, where there is one, its kind; nothing is made."""
    for path, body, status, scim_type in NONSENSE:
        sent = {"schemas": [GROUP if path == "/Groups" else USER], **body} if isinstance(body, dict) else body
        answer = await client.send("POST", path, sent)
        assert (answer.status_code, answer.json().get("scimType")) == (status, scim_type), answer.text
        assert answer.json()["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
        assert answer.headers["content-type"] == "application/scim+json"
    for path in ("/Users", "/Groups"):
        assert (await client.ask("GET", path))["totalResults"] == 0


async def test_bodies_that_are_no_json_are_refused(client: ScimClient) -> None:
    url, headers = f"/scim/v2/{client.provider_id}/Users", {"authorization": f"Bearer {client.secret}"}
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"userName": "\\ud800", "schemas": ["%s"]}' % USER.encode()):
        answer = await client.http.post(url, content=content, headers=headers)
        assert answer.status_code == 400, content[:20]


PATCHES: list[tuple[list[Any], dict[str, Any]]] = [
    # As Entra ID sends them.
    ([{"op": "Replace", "path": "active", "value": "False"}], {"active": False}),
    ([{"op": "Replace", "path": "displayName", "value": "A"}], {"displayName": "A"}),
    (
        [{"op": "Add", "path": 'emails[type eq "work"].value', "value": "a@b.org"}],
        {"emails": [{"type": "work", "value": "a@b.org"}]},
    ),
    ([{"op": "Add", "path": f"{ENTERPRISE}:department", "value": "X"}], {ENTERPRISE: {"department": "X"}}),
    ([{"op": "Add", "path": f"{ENTERPRISE}:manager", "value": "1"}], {ENTERPRISE: {"manager": {"value": "1"}}}),
    ([{"op": "Add", "path": "name.givenName", "value": "A"}], {"name": {"givenName": "A"}}),
    (
        [{"op": "Replace", "value": {"name.familyName": "L", "title": "T"}}],
        {"name": {"familyName": "L"}, "title": "T"},
    ),
    ([{"op": "Replace", "path": "nothing", "value": "x"}], {}),
    # As Okta sends it.
    ([{"op": "replace", "value": {"active": False}}], {"active": False}),
    # Several at once, and what is removed.
    (
        [
            {"op": "add", "path": "title", "value": "T"},
            {"op": "add", "path": "nickName", "value": "N"},
            {"op": "remove", "path": "title"},
        ],
        {"nickName": "N"},
    ),
]


async def test_patches_of_real_clients(client: ScimClient) -> None:
    """RFC 7644, section 3.5.2, and what identity providers make of it."""
    for number, (operations, expected) in enumerate(PATCHES):
        made = await client.user(f"user{number}")
        answer = await client.patch(made, *operations)
        assert answer.status_code == 200, answer.text
        wanted = {name: value for name, value in made.items() if name not in ("meta", "schemas")} | expected
        changed = {name: value for name, value in answer.json().items() if name not in ("meta", "schemas")}
        assert changed == wanted, operations


BAD_PATCHES: list[tuple[list[Any], str]] = [
    ([{"op": "replace", "path": "userName"}], "invalidValue"),
    ([{"op": "remove"}], "noTarget"),
    ([{"op": "move", "path": "title"}], "invalidValue"),
    ([{"op": "replace", "path": "id", "value": "x"}], "mutability"),
    ([{"op": "replace", "path": "meta.version", "value": "x"}], "mutability"),
    ([{"op": "remove", "path": "userName"}], "mutability"),
    ([{"op": "add", "path": "emails[", "value": "x"}], "invalidPath"),
    (
        [{"op": "add", "path": "title", "value": "T"}, {"op": "replace", "path": "active", "value": "maybe"}],
        "invalidValue",
    ),
    ([], "invalidValue"),
]


async def test_a_bad_patch_changes_nothing(client: ScimClient) -> None:
    """All of it or nothing (RFC 7644, section 3.5.2)."""
    made = await client.user("ada")
    for operations, scim_type in BAD_PATCHES:
        answer = await client.patch(made, *operations)
        assert (answer.status_code, answer.json()["scimType"]) == (400, scim_type), answer.text
        assert await client.ask("GET", f"/Users/{made['id']}") == made


async def test_a_password_is_kept_nowhere(client: ScimClient) -> None:
    """Invariant I-31."""
    made = await client.user("ada", password="CANARY-PASSWORD")
    await client.patch(made, {"op": "replace", "path": "password", "value": "CANARY-PASSWORD"})
    assert "CANARY" not in str(await client.ask("GET", f"/Users/{made['id']}"))

    def read(tx: Any) -> str:
        return str([list(tx.execute(table.select())) for table in store.metadata.sorted_tables])

    assert "CANARY" not in await client.world.database.read(read)


async def test_members_come_and_go(client: ScimClient) -> None:
    """As Entra ID and Okta send it: by value, by filter, all of them, and all at once."""
    ada, bob, carol = [await client.user(name) for name in ("ada", "bob", "carol")]
    group = await client.group("Builders", ada)
    key = {name: {"value": it["id"]} for name, it in (("ada", ada), ("bob", bob), ("carol", carol))}

    async def after(*operations: Any) -> list[str]:
        answer = await client.patch(group, *operations)
        assert answer.status_code == 204, answer.text
        shown = await client.ask("GET", f"/Groups/{group['id']}")
        ids = {it["id"]: it["userName"] for it in (ada, bob, carol)}
        return sorted(ids[it["value"]] for it in shown.get("members", ()))

    assert await after({"op": "Add", "path": "members", "value": [key["bob"], key["ada"]]}) == ["ada", "bob"]
    assert await after({"op": "Remove", "path": "members", "value": [key["ada"]]}) == ["bob"]
    assert await after({"op": "add", "value": {"members": [key["carol"]]}}) == ["bob", "carol"]
    assert await after({"op": "remove", "path": f'members[value eq "{bob["id"]}"]'}) == ["carol"]
    assert await after({"op": "remove", "path": f'members[value eq "{bob["id"]}"]'}) == ["carol"]
    assert await after({"op": "replace", "path": "members", "value": [key["ada"], key["bob"]]}) == ["ada", "bob"]
    assert await after({"op": "replace", "path": "displayName", "value": "New"}) == ["ada", "bob"]
    assert await after({"op": "remove", "path": "members"}) == []
    assert await after({"op": "add", "path": "members", "value": [key["ada"]]}) == ["ada"]
    await client.ask("DELETE", f"/Users/{ada['id']}")
    assert "members" not in await client.ask("GET", f"/Groups/{group['id']}")


async def test_resources_are_bounded(client: ScimClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scim, "LIMITS", dict.fromkeys(scim.LIMITS, 2))
    monkeypatch.setattr(scim, "MEMBERS", 1)
    ada, bob = await client.user("ada"), await client.user("bob")
    assert (await client.send("POST", "/Users", {"schemas": [USER], "userName": "carol"})).status_code == 403
    group = await client.group("One", ada)
    refused = await client.patch(group, {"op": "add", "path": "members", "value": [{"value": bob["id"]}]})
    assert (refused.status_code, refused.json()["scimType"]) == (400, "invalidValue")
    monkeypatch.setattr(scim, "SHOWN_MEMBERS", 1)
    await client.group("Two", bob)
    first = await client.ask("GET", "/Groups?count=2")
    assert (first["totalResults"], first["itemsPerPage"]) == (2, 1)


async def test_only_the_secret_of_the_provider_opens_the_door(world: World, client: ScimClient) -> None:
    """Invariant I-31, and the wall between organizations."""
    made = await client.user("ada")
    other = ScimClient(world, str(client.http.base_url), await world.add_organization())
    await other.start()
    assert (await other.ask("GET", "/Users"))["totalResults"] == 0
    assert (await other.send("GET", f"/Users/{made['id']}")).status_code == 404
    assert (await other.send("DELETE", f"/Users/{made['id']}")).status_code == 404
    foreign = {"schemas": [GROUP], "displayName": "g", "members": [{"value": made["id"]}]}
    assert (await other.send("POST", "/Groups", foreign)).status_code == 400
    assert (await other.user("ada"))["id"] != made["id"]
    for bearer in (other.secret, "x", client.secret[:-1], client.secret.replace("ghs", "ghk"), client.secret + "x"):
        for path in ("/Users", "/Schemas", "/Nothing", ""):
            answer = await client.send("GET", path, authorization=f"Bearer {bearer}")
            assert (answer.status_code, answer.json()["status"]) == (401, "401"), (path, bearer)
            assert answer.headers["www-authenticate"] == "Bearer"
    for header in (f"Basic {client.secret}", "Bearer", client.secret):
        assert (await client.send("GET", "/Users", authorization=header)).status_code == 401
    await other.http.aclose()
    before = client.secret
    await client.start()
    assert (await client.send("GET", "/Users", authorization=f"Bearer {before}")).status_code == 401
    assert (await client.ask("GET", "/Users"))["totalResults"] == 1
    await client.set(enabled=False)
    assert (await client.send("GET", "/Users")).status_code == 403
    (provider_id, organization) = client.provider_id, client.organization_id
    await world.identity.identity_providers.delete(world.call(organization), organization, provider_id)
    assert (await client.send("GET", "/Users")).status_code == 401
    while await world.identity.scim.forget_once():
        pass
    assert await world.count("scim_resource") == 1
    assert await world.count("scim_secret") == 1


async def test_unknown_secrets_are_bounded_and_known_ones_go_on(world: World) -> None:
    """Invariant I-34: of one address, so many."""
    async with serve(world, RateLimit(0.001, 3)) as url:
        client = ScimClient(world, url)
        await client.start()
        assert (await client.send("GET", "/Users")).status_code == 200
        answers = [await client.send("GET", "/Users", authorization="Bearer x") for _ in range(4)]
        assert [it.status_code for it in answers] == [401, 401, 401, 429]
        assert (await client.send("GET", "/Users")).status_code == 200
        await client.http.aclose()


async def test_the_log_says_what_was_done_and_refused(client: ScimClient) -> None:
    """Of what was sent, only ids: not what people are called."""
    made = await client.user("CANARY@example.com", displayName="CANARY")
    await client.send("POST", "/Users", {"schemas": [USER], "userName": "CANARY@example.com"})
    await client.patch(made, {"op": "replace", "path": "title", "value": "CANARY"})
    await client.send("GET", f"/Users/{made['id']}")
    await client.ask("DELETE", f"/Users/{made['id']}")
    events = await client.events()
    assert [(it.method, it.resource_type, it.status) for it in events] == [
        ("POST", "User", 201),
        ("POST", "User", 409),
        ("PATCH", "User", 200),
        ("DELETE", "User", 204),
    ]
    assert events[0].resource_id == made["id"]
    assert events[1].error == "another user has this userName"
    assert not any("CANARY" in f"{it.error} {it.resource_id}" for it in events)


async def test_the_log_is_bounded(client: ScimClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ada", "bob", "carol"):
        await client.user(name)
    monkeypatch.setattr(scim, "KEEP_EVENTS", 2)
    while await client.world.identity.scim.forget_once():
        pass
    assert len(await client.events()) == 2
    client.world.clock.advance(31 * 86400)
    while await client.world.identity.scim.forget_once():
        pass
    assert await client.events() == []


async def test_the_secret_is_one_for_a_repeated_request(world: World, client: ScimClient) -> None:
    """AIP-155, the secret included; it is stored only as a hash (invariant I-31)."""
    call = world.call(world.organization, "again")
    first, _ = await world.identity.scim.refresh_secret(call, world.organization, client.provider_id)
    again, _ = await world.identity.scim.refresh_secret(call, world.organization, client.provider_id)
    assert first == again != client.secret

    def read(tx: Any) -> str:
        return str([list(tx.execute(table.select())) for table in store.metadata.sorted_tables])

    # What is random in it may hold an underscore as well.
    assert first[-24:] not in await world.database.read(read)


async def test_a_patch_takes_no_longer_than_others_can_wait(
    client: ScimClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unbounded: while a PATCH is applied nobody of the provider writes, and on SQLite nobody at all."""
    emails = [{"value": f"a{number}@a.org", "type": "work"} for number in range(100)]
    ada = await client.user("ada", emails=emails)
    path = 'emails[value eq "a99@a.org"].type'
    # So that neither a fast machine nor a slow one decides.
    monkeypatch.setattr(http, "PATCH_SECONDS", 0.1)
    began = time.monotonic()
    answer = await client.patch(ada, *[{"op": "replace", "path": path, "value": "home"}] * 100)
    assert (answer.status_code, time.monotonic() - began < 10) == (413, True)
    assert "takes too long" in answer.json()["detail"]
    monkeypatch.setattr(http, "PATCH_SECONDS", 60)
    assert (await client.patch(ada, {"op": "replace", "path": path, "value": "home"})).status_code == 200
    title = {"op": "replace", "path": "title", "value": "Boss"}
    assert (await client.patch(ada, *[title] * 100)).status_code == 200
    assert (await client.patch(ada, *[title] * 101)).status_code == 413


async def test_a_user_has_a_hundred_values(client: ScimClient) -> None:
    emails = [{"value": f"a{number}@a.org"} for number in range(101)]
    body = {"schemas": [USER], "userName": "ada", "emails": emails}
    assert (await client.send("POST", "/Users", body)).status_code == 413
    ada = await client.user("ada", emails=emails[:60])
    assert (await client.send("PUT", f"/Users/{ada['id']}", body)).status_code == 413
    add = {"op": "add", "path": "emails"}
    assert (await client.patch(ada, {**add, "value": emails[60:100]})).status_code == 200
    assert (await client.patch(ada, {**add, "value": emails[100:]})).status_code == 413
    shown = await client.ask("GET", f"/Users/{ada['id']}")
    assert len(shown["emails"]) == 100


async def test_filters_that_would_be_compared_with_too_many_members_are_refused(client: ScimClient) -> None:
    group = await client.group("g", *[await client.user(f"u{number}") for number in range(51)])
    renames = [{"op": "replace", "path": 'members[display eq "x"].display', "value": "y"}] * 10
    answer = await client.patch(group, *renames)
    assert (answer.status_code, "name members" in answer.json()["detail"]) == (413, True)
    removed = await client.patch(group, {"op": "remove", "path": f'members[value eq "{group["members"][0]["value"]}"]'})
    assert removed.status_code == 204


NO_TEXT = ('userName eq "a\\u0000"', 'externalId eq "\\u0000"', 'id eq "\\ud800"', 'groups.value eq "\\u0000"')


@pytest.mark.parametrize("filter_", NO_TEXT)
async def test_what_no_database_takes_is_no_filter(client: ScimClient, filter_: str) -> None:
    """It was said to be the database's fault, and clients came back for ever."""
    answer = await client.send("GET", f"/Users?{httpx.QueryParams({'filter': filter_})}")
    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidFilter")


async def test_what_no_database_takes_is_no_member(client: ScimClient) -> None:
    body = {"schemas": [GROUP], "displayName": "g", "members": [{"value": "\0"}]}
    assert (await client.send("POST", "/Groups", body)).json()["scimType"] == "invalidValue"
    group = await client.group("g")
    for operation in (
        {"op": "add", "path": "members", "value": [{"value": "\0"}]},
        {"op": "remove", "path": 'members[value eq "\0"]'},
    ):
        assert (await client.patch(group, operation)).status_code == 400


@pytest.mark.parametrize(
    ("hosts", "buckets"), [(("2001:db8::1", "2001:db8::2"), 1), (("10.0.0.1", "10.0.0.2"), 2), (("", "testclient"), 1)]
)
def test_a_site_has_one_bucket_for_its_unknown_secrets(hosts: tuple[str, str], buckets: int) -> None:
    """Invariant I-31: whoever has one IPv6 address has a /64 of them."""
    requests = [Request({"type": "http", "client": (host, 1) if host else None}) for host in hosts]
    assert len({_limited(request) for request in requests}) == buckets
