"""The life of a service token: decisions 10 and 11, on both engines."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.durations import DAY, HOUR, MINUTE, SECOND
from guardhouse.errors import (
    DurationInvalid,
    EtagMismatch,
    FieldRequired,
    GuardhouseError,
    InvalidField,
    RequestIdReused,
    ServiceTokenInUse,
    ServiceTokenInvalid,
    ServiceTokenNotFound,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.rules import Rule, RuleKind
from guardhouse.times import from_timestamp
from guardhouse_services.identity import metrics, store
from guardhouse_services.identity.domain.credentials import ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import EVERYBODY, YEAR, World

ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)


@pytest.fixture(autouse=True)
def stand_still(world: World) -> None:
    world.clock.stop()


@pytest.fixture
async def robot(world: World) -> tuple[str, ServiceTokenSecret]:
    """A token that may enroll: its id, and what its holder sends."""
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    return await world.service_token()


Robot = tuple[str, ServiceTokenSecret]


async def rotate(world: World, desk: Desk, token_id: str, grace: str = "", request_id: str = "") -> Any:
    request = pb.RotateServiceTokenRequest(
        organization_id=world.organization, service_token_id=token_id, grace=grace, request_id=request_id
    )
    return await desk.send(request)


async def update(world: World, desk: Desk, token_id: str, *paths: str, **changes: Any) -> pb.ServiceToken:
    request = pb.UpdateServiceTokenRequest(
        organization_id=world.organization,
        service_token=pb.ServiceToken(service_token_id=token_id, **changes),
        update_mask=FieldMask(paths=paths or [name for name in changes if name != "etag"]),
    )
    changed: pb.ServiceToken = (await desk.send(request)).service_token
    return changed


async def shown(world: World, desk: Desk, token_id: str) -> pb.ServiceToken:
    request = pb.GetServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    found: pb.ServiceToken = (await desk.send(request)).service_token
    return found


async def refused(world: World, secret: ServiceTokenSecret) -> str:
    """Why the secret enrolls nothing."""
    with pytest.raises(ServiceTokenInvalid) as raised:
        await world.authorize(secret)
    return raised.value.message


WRONG = "the service token is unknown, or its secret is wrong"


async def test_a_rotated_secret_is_refused_at_once_unless_there_is_grace(
    world: World, desk: Desk, robot: Robot
) -> None:
    """Decision 10: the default is none."""
    token_id, first = robot
    answer = await rotate(world, desk, token_id)
    second = replace(first, client_secret=answer.client_secret)
    assert len(bytes.fromhex(answer.client_secret)) == 32
    assert answer.service_token.client_id == first.client_id
    assert not answer.service_token.HasField("previous_secret_expire_time")
    assert await refused(world, first) == WRONG
    await world.authorize(second)


async def test_the_secret_before_is_good_until_its_grace_is_over(world: World, desk: Desk, robot: Robot) -> None:
    """Decision 10: to the microsecond, and without a job that ends it."""
    token_id, first = robot
    answer = await rotate(world, desk, token_id, "720h")
    second = replace(first, client_secret=answer.client_secret)
    until = from_timestamp(answer.service_token.previous_secret_expire_time)
    assert until == world.clock.now() + 720 * HOUR
    world.clock.advance((720 * HOUR - 1) / SECOND)
    await world.authorize(first)
    await world.authorize(second)
    world.clock.advance(1 / SECOND)
    assert await refused(world, first) == WRONG
    await world.authorize(second)


async def test_one_secret_before_the_present_one_is_good_and_no_other(world: World, desk: Desk, robot: Robot) -> None:
    """Decision 10."""
    token_id, secret = robot
    secrets = [secret]
    for _ in range(3):
        answer = await rotate(world, desk, token_id, "24h")
        secrets.append(replace(secret, client_secret=answer.client_secret))
    assert len({it.client_secret for it in secrets}) == 4
    for old in secrets[:2]:
        assert await refused(world, old) == WRONG
    for good in secrets[2:]:
        await world.authorize(good)


async def test_a_repeated_rotation_answers_its_own_secret(world: World, desk: Desk, robot: Robot) -> None:
    """Decision 10 and I-07: at once, again, and after another rotation; nothing of it is stored but the hash (I-31)."""
    token_id, _ = robot
    first, same = await asyncio.gather(*(rotate(world, desk, token_id, "1h", "r") for _ in range(2)))
    other = await rotate(world, desk, token_id, "1h", "another")
    again = await rotate(world, desk, token_id, "1h", "r")
    assert first == same
    assert (again.client_secret, again.service_token) == (first.client_secret, first.service_token)
    assert other.client_secret != first.client_secret
    with pytest.raises(RequestIdReused):
        await rotate(world, desk, token_id, "2h", "r")
    stored = str(await desk.dump())
    assert first.client_secret not in stored
    assert other.client_secret not in stored


async def test_grace_is_thirty_days_at_most(world: World, desk: Desk, robot: Robot) -> None:
    before = await desk.dump()
    for grace in ("721h", "720h0m0.000001s", "-1s", "1 day"):
        with pytest.raises(DurationInvalid) as raised:
            await rotate(world, desk, robot[0], grace)
        assert raised.value.metadata["field"] == "grace"
    assert await desk.dump() == before


async def test_disabling_refuses_both_secrets_and_enabling_accepts_them_again(
    world: World, desk: Desk, robot: Robot
) -> None:
    """Decision 10: whatever it is sent for; only who knows a secret learns that it is disabled."""
    token_id, first = robot
    enrolled = await world.enroll(first)
    answer = await rotate(world, desk, token_id, "24h")
    secrets = [first, replace(first, client_secret=answer.client_secret)]
    disabled = await update(world, desk, token_id, disabled=True)
    assert disabled.disabled
    for secret in secrets:
        assert await refused(world, secret) == "the service token is disabled"
        for use in (world.authenticate(enrolled, secret), world.log_in(secret)):
            with pytest.raises(ServiceTokenInvalid, match="disabled"):
                await use
    assert await refused(world, replace(first, client_secret="0" * 64)) == WRONG
    assert not (await update(world, desk, token_id, "disabled")).disabled
    for secret in secrets:
        await world.authorize(secret)
        await world.authenticate(enrolled, secret)


async def test_a_refresh_extends_by_a_year_from_when_it_would_expire(world: World, desk: Desk) -> None:
    """Decision 10; one that has expired is good for a year from now, with the same secret."""
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    token_id, secret = await world.service_token(24 * HOUR)
    request = pb.RefreshServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    before = from_timestamp((await shown(world, desk, token_id)).expire_time)
    refreshed = (await desk.send(request)).service_token
    assert from_timestamp(refreshed.expire_time) == before + YEAR
    world.clock.advance((YEAR + 48 * HOUR) / SECOND)
    assert await refused(world, secret) == "the service token has expired"
    refreshed = (await desk.send(request)).service_token
    assert from_timestamp(refreshed.expire_time) == world.clock.now() + YEAR
    await world.authorize(secret)


async def test_refreshing_ends_where_time_does(world: World, desk: Desk) -> None:
    """A Timestamp holds nothing after the year 9999."""
    token_id, _ = await world.service_token(YEAR * 7970)
    request = pb.RefreshServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    (*_, refreshed) = [(await desk.send(request)).service_token for _ in range(20)]
    assert refreshed.expire_time.ToJsonString() == "9999-12-31T23:59:59Z"


async def test_when_it_was_last_seen_is_kept_to_the_hour(world: World, desk: Desk, robot: Robot) -> None:
    """One write an hour, however busy it is, and no other etag for that; whoever is refused was not seen."""
    token_id, secret = robot
    created = await shown(world, desk, token_id)
    assert not created.HasField("last_seen_time")
    await refused(world, replace(secret, client_secret="0" * 64))
    assert await shown(world, desk, token_id) == created
    enrolled = await world.enroll(secret)
    first = from_timestamp((await shown(world, desk, token_id)).last_seen_time)
    assert first == world.clock.now()
    world.clock.advance((HOUR - 1) / SECOND)
    await world.authenticate(enrolled, secret)
    assert from_timestamp((await shown(world, desk, token_id)).last_seen_time) == first
    world.clock.advance(1 / SECOND)
    await world.authenticate(enrolled, secret)
    seen = await shown(world, desk, token_id)
    assert from_timestamp(seen.last_seen_time) == first + HOUR
    world.clock.advance(HOUR / SECOND)
    await world.log_in(secret)
    seen = await shown(world, desk, token_id)
    assert from_timestamp(seen.last_seen_time) == first + 2 * HOUR
    assert (seen.etag, seen.update_time) == (created.etag, created.update_time)


async def test_who_tries_a_credential_has_not_seen_the_token(world: World, desk: Desk, robot: Robot) -> None:
    """TestEnrollment and a dry run of a login change nothing."""
    _, secret = robot
    sent = ServiceTokenCredential(client_id=secret.client_id, client_secret=secret.client_secret)
    before = await desk.dump()
    request = pb.TestEnrollmentRequest(organization_id=world.organization, credential=Credential(service_token=sent))
    assert (await desk.send(request)).admitted
    await world.log_in(secret, dry=True)
    assert await desk.dump() == before


async def test_a_deleted_token_cannot_enroll_and_what_it_enrolled_lives(world: World, desk: Desk, robot: Robot) -> None:
    """Decisions 11 and 20: the answer counts those that it leaves behind."""
    token_id, secret = robot
    enrolled = await world.enroll(secret)
    request = pb.DeleteServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    assert (await desk.send(request)).registrations == 1
    assert await refused(world, secret) == WRONG
    with pytest.raises(ServiceTokenInvalid):
        await world.authenticate(enrolled, secret)
    live = await world.read(lambda tx: store.registrations.live(tx, world.organization))
    assert live == {enrolled.intent_id}
    with pytest.raises(ServiceTokenNotFound):
        await rotate(world, desk, token_id)


async def test_a_disabled_or_expired_token_that_a_policy_names_is_in_use(world: World, desk: Desk) -> None:
    """Decision 11: what counts is that a policy names it."""
    token_id, _ = await world.service_token(HOUR)
    rule = Rule(RuleKind.SERVICE_TOKEN, token_id)
    policy = await world.allow(rule, decision=Decision.SERVICE_AUTH, precedence=1)
    await update(world, desk, token_id, disabled=True)
    world.clock.advance(2 * HOUR / SECOND)
    request = pb.DeleteServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    with pytest.raises(ServiceTokenInUse) as raised:
        await desk.send(request)
    assert raised.value.metadata == {"enrollment_policy_ids": policy.enrollment_policy_id}


async def test_changes_are_made_to_the_state_that_was_read(world: World, desk: Desk, robot: Robot) -> None:
    """AIP-154: each change makes another etag, and each method refuses one that is not the present one."""
    token_id, _ = robot
    read = await shown(world, desk, token_id)
    changed = await update(world, desk, token_id, display_name="Builder", etag=read.etag)
    assert (changed.display_name, changed.etag == read.etag) == ("Builder", False)
    assert from_timestamp(changed.update_time) == world.clock.now()
    before = await desk.dump()
    named: dict[str, Any] = {"organization_id": world.organization, "service_token_id": token_id, "etag": read.etag}
    for request in (
        pb.RotateServiceTokenRequest(**named),
        pb.RefreshServiceTokenRequest(**named),
        pb.DeleteServiceTokenRequest(**named),
    ):
        with pytest.raises(EtagMismatch):
            await desk.send(request)
    with pytest.raises(EtagMismatch):
        await update(world, desk, token_id, display_name="Other", etag=read.etag)
    assert await desk.dump() == before


async def test_what_cannot_be_changed_is_refused(world: World, desk: Desk, robot: Robot) -> None:
    async def fails(kind: type[GuardhouseError], field: str, *paths: str, **changes: Any) -> None:
        with pytest.raises(kind) as raised:
            await update(world, desk, robot[0], *paths, **changes)
        assert raised.value.metadata["field"] == field

    await fails(FieldRequired, "update_mask")
    await fails(InvalidField, "update_mask", "expire_time")
    await fails(FieldRequired, "service_token.display_name", "display_name")
    await fails(InvalidField, "service_token.display_name", display_name="x" * 101)


async def test_tokens_are_listed_by_name(world: World, desk: Desk) -> None:
    """To the letter, and nobody else's."""
    ids = sorted([(await world.service_token())[0] for _ in range(3)])
    await update(world, desk, ids[1], display_name="robot")
    other = await world.add_organization()
    await world.identity.service_tokens.create(world.call(other), other, "Robot", YEAR)

    async def named(name: str) -> list[str]:
        request = pb.ListServiceTokensRequest(organization_id=world.organization, display_name=name, page_size=1)
        found = []
        while True:
            page = await desk.send(request)
            found += [token.service_token_id for token in page.service_tokens]
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    assert await named("Robot") == [ids[0], ids[2]]
    assert await named("robot") == [ids[1]]
    assert await named("") == ids
    assert await named("Rob") == []


async def test_tokens_that_expire_within_a_week_are_told(world: World, desk: Desk) -> None:
    """Those that are accepted still; of the installation, or of each organization."""
    other = await world.add_organization()
    durations = (7 * DAY, 7 * DAY + MINUTE, 7 * DAY + 3 * HOUR, HOUR, 3 * DAY)
    ids = [(await world.service_token(duration))[0] for duration in durations]
    await update(world, desk, ids[-1], disabled=True)
    await world.identity.service_tokens.create(world.call(other), other, "Robot", DAY)
    world.clock.advance(2 * HOUR / SECOND)
    # Two of the organization, one of which came near meanwhile; then one is too far, one expired and one disabled.
    samples: dict[tuple[str, ...], float] = {}
    for each in (False, True):
        gauges = await world.read(lambda tx, each=each: metrics.figures(tx, each))  # type: ignore[misc]
        samples |= next(it.samples for it in gauges if it.name == "guardhouse_service_tokens_expiring")
    assert samples == {(): 3, (world.organization,): 2, (other,): 1}


async def test_a_token_from_before_rotation_keeps_its_secret(world: World) -> None:
    """Decision 10: derived as ever, so what devices hold is accepted after an upgrade."""
    _, secret = await world.service_token()
    (token,) = await world.identity.service_tokens.page(world.organization, EVERYBODY)
    assert (token.secret_version, token.previous_secret_hash) == (1, b"")
    derived = world.identity.service_tokens._master_key.derive("service token", token.service_token_id)
    assert secret.client_secret == derived.hex()


async def test_registrations_of_a_token_may_be_silent_as_long_as_it_says(
    world: World, desk: Desk, robot: Robot
) -> None:
    """Decision 15: for ever unless it is said; an enrollment has what its token said when it was authorized."""
    token_id, secret = robot
    assert (await shown(world, desk, token_id)).expire_registrations_after == ""
    assert (await world.authorize(secret)).expire_after is None
    changed = await update(world, desk, token_id, expire_registrations_after="90m")
    assert changed.expire_registrations_after == "1h30m0s"
    intent = await world.authorize(secret)
    assert intent.expire_after == 90 * MINUTE
    assert (await update(world, desk, token_id, "expire_registrations_after")).expire_registrations_after == ""
    assert (await world.authorize(secret)).expire_after is None
    again = await world.authorize(secret, intent_id=intent.intent_id)
    assert again.expire_after == 90 * MINUTE
    request = pb.CreateServiceTokenRequest(
        organization_id=world.organization, display_name="Runner", expire_registrations_after="2h"
    )
    assert (await desk.send(request)).service_token.expire_registrations_after == "2h0m0s"


@pytest.mark.parametrize("silence", ["9m59s", "8761h", "-1h", "0", "a day"])
async def test_a_silence_that_is_too_short_or_too_long_is_refused(
    world: World, desk: Desk, robot: Robot, silence: str
) -> None:
    with pytest.raises(DurationInvalid, match=r"10m to 8760h|duration") as raised:
        await update(world, desk, robot[0], expire_registrations_after=silence)
    assert raised.value.metadata["field"] == "service_token.expire_registrations_after"
    request = pb.CreateServiceTokenRequest(
        organization_id=world.organization, display_name="Runner", expire_registrations_after=silence
    )
    with pytest.raises(DurationInvalid) as raised:
        await desk.send(request)
    assert raised.value.metadata["field"] == "expire_registrations_after"
