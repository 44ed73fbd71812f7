"""Access applications, the settings of device sessions and signing keys: what is kept, refused and published."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from demo.plane import free_port_base
from guardhouse import revisions
from guardhouse.applications import MAX_DURATION, Application, DeviceSessionSettings, SigningKey
from guardhouse.durations import DAY, HOUR
from guardhouse.errors import (
    ApplicationNotFound,
    DeviceSessionDurationRequired,
    DurationInvalid,
    EtagMismatch,
    FieldRequired,
    InvalidField,
    LimitReached,
    OrganizationNotFound,
    RequestIdReused,
)
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.database import change as changes
from guardhouse_services.session import store
from guardhouse_services.session.__main__ import build
from guardhouse_services.session.domain.signing_keys import Rotation
from guardhouse_services.session.gateways import show
from guardhouse_services.session.replica import OwnState
from guardhouse_services.session.usecases import snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.session.service import Service
from tests.guardhouse_services.session.test_serving import prepared
from tests.guardhouse_services.session.world import ALICE, MACHINE, ORGANIZATION, OTHER_ORGANIZATION, policy

ALLOW, BLOCK = pb.APPLICATION_DECISION_ALLOW, pb.APPLICATION_DECISION_BLOCK
SERVICE_AUTH, BYPASS = pb.APPLICATION_DECISION_SERVICE_AUTH, pb.APPLICATION_DECISION_BYPASS
OKTA, NOBODY = "idp_" + "1" * 32, "org_" + "9" * 32
NO_APPLICATION = "app_" + "f" * 32
RULES: dict[str, Any] = {
    "everyone": pb.Everyone(),
    "email": "Ada@example.com",
    "email_domain": "@example.com",
    "group": "Staff",
    "service_token_id": MACHINE,
    "any_valid_service_token": pb.AnyValidServiceToken(),
    "login_method": OKTA,
    "ip_range": "192.0.2.0/24",
    "country": "DE",
    "oidc_claim": "department=engineering",
    "posture_check": "disk-encrypted",
}
OF_MACHINES = {"service_token_id", "any_valid_service_token"}
# What is refused before any database is asked, or comes by a feed.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def rule(kind: str = "everyone", value: Any = None) -> pb.ApplicationRule:
    return pb.ApplicationRule(**{kind: RULES[kind] if value is None else value})


def rules(decision: Any = ALLOW, name: str = "Staff", include: Any = None, **fields: Any) -> pb.ApplicationPolicy:
    chosen = [rule()] if include is None else include
    return pb.ApplicationPolicy(display_name=name, decision=decision, include=chosen, **fields)


async def create(service: Service, request_id: str = "", organization_id: str = ORGANIZATION, **fields: Any) -> Any:
    made = pb.Application(**{"display_name": "Wiki", "policies": [rules()], **fields})
    return await service(pb.CreateApplicationRequest(organization_id=organization_id, application=made), request_id)


async def update(service: Service, application_id: str, *paths: str, request_id: str = "", **fields: Any) -> Any:
    request = pb.UpdateApplicationRequest(
        organization_id=ORGANIZATION,
        application=pb.Application(application_id=application_id, **fields),
        update_mask=FieldMask(paths=paths or list(fields)),
    )
    return await service(request, request_id)


async def delete(service: Service, application_id: str, request_id: str = "", **fields: Any) -> Any:
    request = pb.DeleteApplicationRequest(organization_id=ORGANIZATION, application_id=application_id, **fields)
    return await service(request, request_id)


async def get(service: Service, application_id: str, organization_id: str = ORGANIZATION) -> pb.Application:
    request = pb.GetApplicationRequest(organization_id=organization_id, application_id=application_id)
    found: pb.Application = (await service(request)).application
    return found


async def listed(service: Service, organization_id: str = ORGANIZATION) -> list[pb.Application]:
    return list((await service(pb.ListApplicationsRequest(organization_id=organization_id))).applications)


async def settings(service: Service) -> pb.DeviceSessionSettings:
    found: pb.DeviceSessionSettings = (
        await service(pb.GetDeviceSessionSettingsRequest(organization_id=ORGANIZATION))
    ).settings
    return found


async def configure(service: Service, *paths: str, request_id: str = "", **fields: Any) -> Any:
    request = pb.UpdateDeviceSessionSettingsRequest(
        organization_id=ORGANIZATION,
        settings=pb.DeviceSessionSettings(**fields),
        update_mask=FieldMask(paths=paths or list(fields)),
    )
    return await service(request, request_id)


async def keys(service: Service) -> list[pb.SigningKey]:
    return list((await service(pb.ListSigningKeysRequest(organization_id=ORGANIZATION))).signing_keys)


async def rotate(service: Service, request_id: str = "", **fields: Any) -> Any:
    return await service(pb.RotateSigningKeyRequest(organization_id=ORGANIZATION, **fields), request_id)


async def test_an_application_is_kept_in_its_normal_form(service: Service, clock: FakeClock) -> None:
    """Decision 31: with its own policies in their order; decision 30: with durations as Go writes them."""
    clock.stop()
    machines = [rule("service_token_id"), rule("ip_range", "::ffff:192.0.2.0/120"), rule("country", "de")]
    policies = [
        rules(ALLOW, "Staff", [rule("email"), rule("group")], session_duration="90m"),
        rules(SERVICE_AUTH, "CI", machines, require=[rule("ip_range", "192.0.2.7")], session_duration="0"),
        rules(BLOCK, "Others", exclude=[rule("ip_range", "2001:DB8::/32"), rule("oidc_claim")]),
    ]
    reply = await create(
        service, description="Pages", policies=policies, identity_provider_ids=[OKTA], binding_cookie=True
    )
    kept = await get(service, reply.application.application_id)
    assert kept == reply.application
    assert await listed(service) == [kept]
    assert (kept.display_name, kept.description, kept.session_duration) == ("Wiki", "Pages", "24h0m0s")
    assert (list(kept.identity_provider_ids), kept.binding_cookie) == ([OKTA], True)
    assert (kept.HasField("device_session"), kept.device_session_effective) == (False, False)
    assert kept.create_time == kept.update_time
    assert kept.create_time.ToMicroseconds() == clock.now()
    policies[0].session_duration, policies[1].session_duration = "1h30m0s", "0s"
    policies[1].include[1].ip_range, policies[1].include[2].country = "192.0.2.0/24", "DE"
    policies[1].require[0].ip_range = "192.0.2.7/32"
    policies[2].exclude[0].ip_range = "2001:db8::/32"
    assert list(kept.policies) == policies
    nothing = (await create(service, policies=[], session_duration="0s")).application
    assert (list(nothing.policies), nothing.session_duration) == ([], "0s")


@ON_ONE
async def test_a_field_at_fault_is_named(service: Service) -> None:
    """To the rule, in a new application as in one that is changed."""
    wrong_rules: list[tuple[str, Any, type[InvalidField]]] = [
        ("email", "ada", InvalidField),
        ("email", "", FieldRequired),
        ("email_domain", "@", InvalidField),
        ("group", "x" * 257, InvalidField),
        ("service_token_id", ALICE, InvalidField),
        ("login_method", "Okta", InvalidField),
        *(("ip_range", it, InvalidField) for it in ("192.0.2.1/24", "example.com", "fe80::1%eth0", "1.2.3.4/33")),
        ("ip_range", "", FieldRequired),
        *(("country", it, InvalidField) for it in ("Germany", "D", "D1", "ÄÖ")),
        ("country", "", FieldRequired),
        *(("oidc_claim", it, InvalidField) for it in ("department", "=x", "x" * 101 + "=x", "a=" + "x" * 999)),
        ("posture_check", "x" * 101, InvalidField),
    ]
    policy = "application.policies[1]"
    wrong: list[tuple[dict[str, Any], str, type[InvalidField]]] = [
        ({"display_name": " "}, "application.display_name", FieldRequired),
        ({"description": "x" * 501}, "application.description", InvalidField),
        *(
            ({"session_duration": it}, "application.session_duration", DurationInvalid)
            for it in ("-1s", "744h0m0.000001s", "1d", "31 days")
        ),
        ({"policies": [rules(name=f"{it}") for it in range(101)]}, "application.policies", InvalidField),
        ({"identity_provider_ids": [OKTA, ALICE]}, "application.identity_provider_ids[1]", InvalidField),
        ({"identity_provider_ids": [OKTA, OKTA]}, "application.identity_provider_ids[1]", InvalidField),
        ({"identity_provider_ids": [OKTA] * 21}, "application.identity_provider_ids", InvalidField),
        *(
            ({"policies": [rules(name="first"), sent]}, f"{policy}.{field}", error)
            for sent, field, error in (
                (rules(name=""), "display_name", FieldRequired),
                (rules(name="first"), "display_name", InvalidField),
                (rules(0), "decision", FieldRequired),
                (rules(5), "decision", InvalidField),
                (rules(include=[]), "include", FieldRequired),
                (rules(require=[rule()] * 1001), "require", InvalidField),
                (rules(exclude=[rule(), pb.ApplicationRule()]), "exclude[1]", FieldRequired),
                (rules(session_duration="745h"), "session_duration", DurationInvalid),
                (rules(BLOCK, session_duration="1h"), "session_duration", InvalidField),
                (rules(BYPASS, session_duration="1h"), "session_duration", InvalidField),
            )
        ),
        *(
            (
                {"policies": [rules(name="a"), rules(_of(kind), include=[rule(), rule(kind, value)])]},
                f"{policy}.include[1].{kind}",
                error,
            )
            for kind, value, error in wrong_rules
        ),
    ]
    made = (await create(service)).application
    for fields, field, error in wrong:
        for call in (create(service, **fields), update(service, made.application_id, **fields)):
            with pytest.raises(error) as caught:
                await call
            assert (type(caught.value), caught.value.field) == (error, field), fields
    with pytest.raises(DurationInvalid):
        await update(service, made.application_id, "session_duration")
    assert await listed(service) == [made]
    longest = f"{MAX_DURATION // HOUR}h0m0s"
    assert (await create(service, session_duration=longest)).application.session_duration == longest


def _of(kind: str) -> Any:
    return SERVICE_AUTH if kind in OF_MACHINES else ALLOW


@ON_ONE
async def test_a_rule_that_could_never_match_is_refused(service: Service) -> None:
    """Decision 31: whoever writes it would think that it lets somebody in, or keeps them out."""
    everywhere = {"everyone", "ip_range", "country"}
    usable = {
        ALLOW: RULES.keys() - OF_MACHINES,
        BLOCK: RULES.keys() - OF_MACHINES,
        SERVICE_AUTH: everywhere | OF_MACHINES | {"posture_check"},
        BYPASS: everywhere,
    }
    for decision, kinds in usable.items():
        message = f"never matches under {pb.ApplicationDecision.Name(decision).removeprefix('APPLICATION_DECISION_')}:"
        good = [rule(kind) for kind in sorted(kinds)]
        await create(service, policies=[rules(decision, include=good, require=good, exclude=good)])
        for kind in RULES.keys() - kinds:
            for place in ("include", "require", "exclude"):
                policy = rules(decision)
                getattr(policy, place).insert(0, rule(kind))
                with pytest.raises(InvalidField, match=message) as caught:
                    await create(service, policies=[policy])
                assert caught.value.field == f"application.policies[0].{place}[0].{kind}"
    assert len(await listed(service)) == 4


@ON_ONE
async def test_what_is_required_is_named(service: Service) -> None:
    for request, field in (
        (pb.CreateApplicationRequest(organization_id=ORGANIZATION), "application"),
        (pb.GetApplicationRequest(organization_id=ORGANIZATION), "application_id"),
        (pb.UpdateApplicationRequest(organization_id=ORGANIZATION), "application.application_id"),
        (pb.DeleteApplicationRequest(organization_id=ORGANIZATION), "application_id"),
        (pb.UpdateDeviceSessionSettingsRequest(organization_id=ORGANIZATION), "update_mask"),
    ):
        with pytest.raises(FieldRequired) as caught:
            await service(request)
        assert caught.value.field == field
    for path in ("application_id", "device_session_effective", "nonsense"):
        with pytest.raises(InvalidField) as wrong:
            await update(service, NO_APPLICATION, path)
        assert wrong.value.field == "update_mask"


@ON_ONE
async def test_an_organization_that_is_none_has_nothing(service: Service) -> None:
    with pytest.raises(OrganizationNotFound):
        await create(service, organization_id=NOBODY)
    for request in (
        pb.GetDeviceSessionSettingsRequest(organization_id=NOBODY),
        pb.UpdateDeviceSessionSettingsRequest(
            organization_id=NOBODY, update_mask=FieldMask(paths=["apply_by_default"])
        ),
        pb.ListSigningKeysRequest(organization_id=NOBODY),
        pb.RotateSigningKeyRequest(organization_id=NOBODY),
    ):
        with pytest.raises(OrganizationNotFound):
            await service(request)


async def test_an_organization_has_room_for_so_many_applications(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public account limits, in small."""
    monkeypatch.setattr("guardhouse_services.session.store.applications.LIMIT", 2)
    first = (await create(service)).application
    await create(service)
    await create(service, organization_id=OTHER_ORGANIZATION)
    with pytest.raises(LimitReached) as caught:
        await create(service)
    assert caught.value.metadata == {"limit": "2"}
    await delete(service, first.application_id)
    await create(service)


async def test_an_update_changes_what_the_mask_names(service: Service, clock: FakeClock) -> None:
    clock.stop()
    await configure(service, session_duration="8h")
    made = (await create(service, description="Old", identity_provider_ids=[OKTA], session_duration="1h")).application
    clock.advance(5)
    policies = [rules(BLOCK, "Nobody"), rules(ALLOW, "Staff")]
    changed = (
        await update(service, made.application_id, "policies", "device_session", policies=policies, device_session=True)
    ).application
    assert (list(changed.policies), changed.device_session, changed.device_session_effective) == (policies, True, True)
    assert (changed.description, changed.session_duration) == ("Old", "1h0m0s")
    assert (changed.create_time, changed.update_time.ToMicroseconds()) == (made.create_time, clock.now())
    cleared = (
        await update(service, made.application_id, "identity_provider_ids", "description", "device_session")
    ).application
    assert (list(cleared.identity_provider_ids), cleared.description) == ([], "")
    assert (cleared.HasField("device_session"), list(cleared.policies)) == (False, policies)
    assert await get(service, made.application_id) == cleared


async def test_an_application_is_changed_as_it_was_read(service: Service, clock: FakeClock) -> None:
    """AIP-154: without an etag the last change wins. That the settings change is no change of the application."""
    made = (await create(service)).application
    await configure(service, session_duration="8h", apply_by_default=True)
    assert (await get(service, made.application_id)).etag == made.etag
    clock.advance(1)
    changed = (await update(service, made.application_id, "description", etag=made.etag)).application
    assert changed.etag != made.etag
    for call in (
        update(service, made.application_id, "description", etag=made.etag),
        delete(service, made.application_id, etag=made.etag),
        delete(service, made.application_id, etag=made.etag, validate_only=True),
    ):
        with pytest.raises(EtagMismatch):
            await call
    assert await get(service, made.application_id) == changed
    await delete(service, made.application_id, etag=changed.etag)
    assert await listed(service) == []


@pytest.mark.parametrize("by_default", [False, True])
async def test_the_session_of_a_device_is_enough_where_it_can_be(service: Service, by_default: bool) -> None:
    """Decision 31: as an application says, else as the settings say for all, those that exist and new ones."""
    bound = (await create(service, binding_cookie=True)).application.application_id
    bypassed = (await create(service, policies=[rules(), rules(BYPASS, "Office")])).application.application_id
    before = (await create(service)).application.application_id
    off = (await create(service, device_session=False)).application.application_id
    await configure(service, session_duration="8h", apply_by_default=by_default)
    after = (await create(service)).application.application_id
    on = (await create(service, device_session=True)).application.application_id
    effective = {it.application_id for it in await listed(service) if it.device_session_effective}
    assert effective == ({before, after, on} if by_default else {on})
    assert off not in effective
    for application_id in (bound, bypassed):
        with pytest.raises(InvalidField) as caught:
            await update(service, application_id, device_session=True)
        assert caught.value.field == "application.device_session"
    for fields in ({"binding_cookie": True}, {"policies": [rules(SERVICE_AUTH, "CI")]}):
        with pytest.raises(InvalidField) as caught:
            await update(service, on, **fields)
        assert caught.value.field == "application.device_session"
        with pytest.raises(InvalidField):
            await create(service, device_session=True, **fields)


async def test_the_session_of_a_device_needs_a_duration(service: Service) -> None:
    """Decision 31: to enable it without one is refused, as is to take the duration away."""
    made = (await create(service)).application.application_id
    for call, named in (
        (create(service, device_session=True), ""),
        (update(service, made, device_session=True), made),
        (configure(service, apply_by_default=True), ""),
    ):
        with pytest.raises(DeviceSessionDurationRequired) as caught:
            await call
        assert caught.value.metadata == {"application_ids": named}
    assert await settings(service) == pb.DeviceSessionSettings(etag=(await settings(service)).etag)
    await configure(service, session_duration="8h", apply_by_default=True)
    with pytest.raises(DeviceSessionDurationRequired):
        await configure(service, "session_duration")
    await configure(service, apply_by_default=False)
    await update(service, made, device_session=True)
    other = (await create(service, device_session=True)).application.application_id
    with pytest.raises(DeviceSessionDurationRequired) as caught:
        await configure(service, "session_duration")
    assert caught.value.metadata == {"application_ids": f"{made},{other}"}
    await update(service, made, device_session=False)
    await delete(service, other)
    assert (await configure(service, "session_duration")).settings.session_duration == ""


async def test_the_duration_does_not_go_while_an_application_begins_to_need_it(service: Service) -> None:
    """Of the two at once one is refused, and never are both done."""
    for _ in range(5):
        await configure(service, session_duration="8h")
        both: Any = (configure(service, "session_duration"), create(service, device_session=True))
        results = await asyncio.gather(*both, return_exceptions=True)
        refused = [type(it) for it in results if isinstance(it, BaseException)]
        assert refused == [DeviceSessionDurationRequired]
        for shown in await listed(service):
            await delete(service, shown.application_id)


async def test_settings_are_changed_by_mask_as_they_were_read(service: Service, clock: FakeClock) -> None:
    """Decision 30: more than zero and at most ten years."""
    clock.stop()
    new = await settings(service)
    assert (new.session_duration, new.apply_by_default, new.HasField("update_time")) == ("", False, False)
    for duration in ("0s", "-1h", "87600h0m0.000001s", "a week"):
        with pytest.raises(DurationInvalid) as caught:
            await configure(service, session_duration=duration)
        assert caught.value.field == "settings.session_duration"
    made = (await configure(service, "session_duration", session_duration="87600h", etag=new.etag)).settings
    assert (made.session_duration, made.update_time.ToMicroseconds()) == ("87600h0m0s", clock.now())
    on = (await configure(service, "apply_by_default", apply_by_default=True, session_duration="1h")).settings
    assert (on.session_duration, on.apply_by_default) == ("87600h0m0s", True)
    with pytest.raises(EtagMismatch):
        await configure(service, "session_duration", session_duration="1h", etag=made.etag)
    assert await settings(service) == on
    with pytest.raises(InvalidField) as wrong:
        await configure(service, "update_time")
    assert wrong.value.field == "update_mask"


async def test_applications_of_another_organization_do_not_exist(service: Service) -> None:
    """I-27: the foreign one answers as the unknown one does."""
    foreign = (await create(service, organization_id=OTHER_ORGANIZATION)).application.application_id
    for application_id in (foreign, NO_APPLICATION):
        for call in (
            get(service, application_id),
            update(service, application_id, description="x"),
            delete(service, application_id),
            delete(service, application_id, validate_only=True),
        ):
            with pytest.raises(ApplicationNotFound):
                await call
    assert await listed(service) == []
    assert await keys(service) == []
    assert (await get(service, foreign, OTHER_ORGANIZATION)).display_name == "Wiki"


async def test_a_repeated_request_has_one_effect(service: Service) -> None:
    """I-07: and the answer of the first time, whatever has become of it since; and each is in the audit log once."""
    first = await create(service, "r1")
    application_id = first.application.application_id
    (key,) = await keys(service)
    set_ = await configure(service, session_duration="8h", apply_by_default=True, request_id="r2")
    changed = await update(service, application_id, "session_duration", session_duration="1h", request_id="r3")
    tried = await delete(service, application_id, "r4", validate_only=True)
    assert tried == pb.DeleteApplicationResponse(application=changed.application)
    gone = await delete(service, application_id, "r4")
    assert (gone.application, bool(gone.revision_token)) == (changed.application, True)
    rotated = await rotate(service, "r5", revoke_previous=True)
    written = (first, set_, changed, gone, rotated)
    assert [revisions.decode(it.revision_token).position.revision for it in written] == [1, 2, 3, 4, 5]
    await rotate(service, revoke_previous=True)
    await configure(service, "session_duration", "apply_by_default")
    revision, records = await service.revision(), await service.records()
    assert await create(service, "r1") == first
    assert await configure(service, session_duration="8h", apply_by_default=True, request_id="r2") == set_
    assert await update(service, application_id, "session_duration", session_duration="1h", request_id="r3") == changed
    assert await delete(service, application_id, "r4") == gone
    assert await rotate(service, "r5", revoke_previous=True) == rotated
    with pytest.raises(RequestIdReused):
        await create(service, "r1", display_name="Other")
    assert (await service.revision(), await service.records()) == (revision, records)
    assert [(record.method, list(record.objects)) for record in records[:5]] == [
        ("/CreateApplication", [application_id]),
        ("/UpdateDeviceSessionSettings", [ORGANIZATION]),
        ("/UpdateApplication", [application_id]),
        ("/DeleteApplication", [application_id]),
        ("/RotateSigningKey", [rotated.signing_key.key_id, key.key_id]),
    ]


async def test_applications_come_in_pages_by_creation(
    service: Service, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AIP-158: and where there are many rules, in smaller ones, so that clients take them."""
    for number in range(5):
        clock.advance(1)
        await create(service, display_name=f"{number}")
    names, token = [], ""
    for size in (2, 2, 1):
        page = await service(pb.ListApplicationsRequest(organization_id=ORGANIZATION, page_size=2, page_token=token))
        assert len(page.applications) == size
        names += [each.display_name for each in page.applications]
        token = page.next_page_token
    assert (names, token) == (["0", "1", "2", "3", "4"], "")
    largest = max(each.ByteSize() for each in await listed(service))
    monkeypatch.setattr("guardhouse_services.paging.PAGE_BYTES", largest * 3)
    page = await service(pb.ListApplicationsRequest(organization_id=ORGANIZATION, page_size=4))
    assert (len(page.applications), bool(page.next_page_token)) == (3, True)


async def test_the_first_application_comes_with_a_key_that_signs_at_once(service: Service, clock: FakeClock) -> None:
    """Decision 31: nobody can have kept a key set before there was one."""
    clock.stop()
    assert await keys(service) == []
    made = await create(service)
    (key,) = await keys(service)
    assert key.key_id.startswith("sig_")
    assert key.create_time == key.sign_time == made.application.create_time
    assert not key.HasField("expire_time")
    await create(service)
    await delete(service, made.application.application_id)
    await create(service)
    assert await keys(service) == [key]


async def test_the_next_key_is_published_an_hour_before_it_signs(service: Service, clock: FakeClock) -> None:
    """Decision 31: every 42 days without being asked, and the one before stays for 7 days; then nothing is due."""
    clock.stop()
    await create(service)
    (first,) = await keys(service)
    job = service.servicer.session.signing_keys.keep
    clock.advance(42 * 86400 - 1)
    await job()
    assert await keys(service) == [first]
    clock.advance(1)
    await asyncio.gather(job(), job())
    second, before = await keys(service)
    now = clock.now()
    assert (second.create_time.ToMicroseconds(), second.sign_time.ToMicroseconds()) == (now, now + HOUR)
    assert before.expire_time.ToMicroseconds() == now + HOUR + 7 * DAY
    assert (before.key_id, before.sign_time, second.HasField("expire_time")) == (first.key_id, first.sign_time, False)
    clock.advance(3600 + 7 * 86400)
    # What has expired is in no key set, whether the job has come by or not.
    assert await keys(service) == [second]
    revision = await service.revision()
    await job()
    await job()
    assert await keys(service) == [second]
    assert await service.revision() == revision + 1
    records = [record for record in await service.records() if record.actor == "job:rotate signing keys"]
    assert [list(record.objects) for record in records] == [[second.key_id, first.key_id], [first.key_id]]
    assert await service.database.read(lambda tx: tx.execute(sa.text("SELECT count(*) FROM signing_key")).scalar()) == 1


async def test_a_key_is_rotated_when_somebody_asks(service: Service, clock: FakeClock) -> None:
    """Decision 31: as if it were due; and a key that leaked is withdrawn, and the next one signs at once."""
    clock.stop()
    first = (await rotate(service)).signing_key
    assert first.sign_time == first.create_time
    clock.advance(60)
    second = (await rotate(service)).signing_key
    assert second.sign_time.ToMicroseconds() == clock.now() + HOUR
    clock.advance(60)
    third = (await rotate(service)).signing_key
    newest, middle, oldest = await keys(service)
    assert (newest, middle.key_id, oldest.key_id) == (third, second.key_id, first.key_id)
    assert oldest.expire_time.ToMicroseconds() == second.sign_time.ToMicroseconds() + 7 * DAY
    assert middle.expire_time.ToMicroseconds() == third.sign_time.ToMicroseconds() + 7 * DAY
    for _ in range(7):
        await rotate(service)
    with pytest.raises(LimitReached) as caught:
        await rotate(service)
    assert caught.value.metadata == {"limit": "10"}
    last = (await rotate(service, revoke_previous=True)).signing_key
    assert last.sign_time == last.create_time
    assert await keys(service) == [last]


async def tell(service: Service) -> None:
    """Something of every kind, some of it gone again."""
    await configure(service, session_duration="8h", apply_by_default=True)
    gone = (await create(service, policies=[rules(BYPASS, include=[rule("ip_range")])])).application
    everything = [rule(kind) for kind in RULES.keys() - OF_MACHINES]
    policies = [rules(include=everything, require=everything, exclude=everything, session_duration="0s")]
    await create(service, policies=policies, identity_provider_ids=[OKTA], device_session=True)
    machines = [rule(kind) for kind in sorted(OF_MACHINES)]
    machine = (await create(service, policies=[rules(SERVICE_AUTH, include=machines)])).application
    await update(service, machine.application_id, binding_cookie=True)
    await delete(service, gone.application_id)
    await rotate(service)
    await rotate(service, revoke_previous=True)
    await rotate(service)
    await configure(service, apply_by_default=False)


def known(state: OwnState) -> Any:
    return state.applications, state.settings, state.signing_keys


async def test_a_replica_knows_what_was_written(service: Service) -> None:
    """I-22: by a snapshot, whatever the size of a page, as by the changes one after the other."""
    await tell(service)
    by_changes = OwnState(ORGANIZATION)
    payloads = await service.database.read(
        lambda tx: tx.execute(sa.select(changes.c.payload).order_by(changes.c.revision)).scalars().all()
    )
    for payload in payloads:
        for event in pb.Change.FromString(payload).events:
            by_changes.apply(event)
    assert by_changes.settings.session_duration == 8 * HOUR
    assert len(by_changes.signing_keys) == len(by_changes.applications) == 2
    state = by_changes
    for size in (1, 2, 3, 5, 6):
        state, after, more = OwnState(ORGANIZATION), "", True
        while more:
            events, after = await service.database.read(lambda tx: snapshot(tx, ORGANIZATION, after, size))  # noqa: B023
            assert len(events) <= size
            for event in events:
                state.apply(event)
            more = bool(after)
        assert known(state) == known(by_changes)
    for shown in await listed(service):
        application = state.applications[shown.application_id]
        assert (state.settings.duration_for(application) is not None) == shown.device_session_effective


@ON_ONE
async def test_gateways_see_nothing_of_applications(service: Service) -> None:
    """They decide on traffic, and what they need not know does not leave the servers."""
    await tell(service)
    await service.create()
    events, _ = await service.database.read(lambda tx: snapshot(tx, ORGANIZATION, "", 100))
    kinds = [event.WhichOneof("kind") for event in events if show(event, ORGANIZATION)]
    assert (len(events), kinds) == (6, ["policy"])
    for event in (pb.Event(application_deleted=NO_APPLICATION), pb.Event(signing_key_deleted="sig")):
        assert show(event, ORGANIZATION) is None


@ON_ONE
async def test_an_organization_is_known_by_what_its_feed_says(service: Service) -> None:
    """I-27: and of one that no feed has named there is nothing."""
    world = service.world
    made = pb.Application(application_id=NO_APPLICATION, display_name="Wiki", session_duration="1h")
    world.own.publish(policy(), pb.Event(application=made))
    await world.settle()
    state = world.replica.applications_of(ORGANIZATION)
    assert state.applications[NO_APPLICATION].session_duration == HOUR
    assert state.policies
    for other in (OTHER_ORGANIZATION, NOBODY):
        assert known(world.replica.applications_of(other)) == ({}, DeviceSessionSettings(), {})


@pytest.mark.parametrize(
    "policy", [rules(include=[rule(), pb.ApplicationRule()]), rules(9), rules(require=[pb.ApplicationRule()])]
)
def test_an_application_that_only_a_newer_release_understands_lets_nobody_in(policy: pb.ApplicationPolicy) -> None:
    """While an upgrade is under way: a rule of a kind that is not known may be the one that keeps somebody out."""
    state = OwnState(ORGANIZATION)
    made = pb.Application(application_id=NO_APPLICATION, display_name="Wiki", session_duration="1h", policies=[policy])
    state.apply(pb.Event(application=made))
    assert state.applications == {NO_APPLICATION: Application(NO_APPLICATION)}


async def test_a_replica_looks_after_the_keys(tmp_path: Path, clock: FakeClock) -> None:
    """Under a lease, like every job: whatever it did while this replica was down is done once it runs."""
    node = build(prepared(tmp_path, clock, port_base=free_port_base()), clock)
    old = SigningKey("sig_" + "0" * 32, clock.now() - 50 * DAY, clock.now() - 50 * DAY)
    await node.database.write(lambda tx: store.signing_keys.apply(tx, ORGANIZATION, Rotation([old], [])))
    async with node, asyncio.timeout(30):
        while len(await node.database.read(lambda tx: store.signing_keys.all_of(tx, ORGANIZATION))) < 2:
            pass
