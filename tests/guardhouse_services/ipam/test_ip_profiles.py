"""IP profiles: who gets an address from which subnet, on both engines (decision 24)."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.errors import (
    EtagMismatch,
    FieldRequired,
    InvalidField,
    IpProfileNotFound,
    LimitReached,
    PrecedenceTaken,
    SubnetExhausted,
    SubnetNotFound,
)
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import IP_PROFILE, SERVICE_TOKEN, SUBNET, new_id
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse_services.ipam.domain.ip_profiles import LIMIT, NOBODY, Holder, IpProfile, first_match, trace
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.ipam.test_mutations import at
from tests.guardhouse_services.ipam.test_subnets import create, profile
from tests.guardhouse_services.ipam.world import World, new

ADA = Holder("", "ada@example.com", "Ada", ("contractors", "ops@example.com"), ("department=research",))
LAB = 0x0A0100


@pytest.fixture
def desk(world: World) -> Desk:
    return at(world)


def made(expression: str, precedence: int = 1, subnet_id: str = "sub_1", *, enabled: bool = True) -> IpProfile:
    return IpProfile(f"ipp_{precedence}", "", "", expression, precedence, subnet_id, enabled, 0, 0)


@pytest.mark.parametrize(
    "expression",
    [
        'identity.email == "ADA@example.com"',
        'identity.email in {"bob@example.com" "ada@example.com"}',
        'not identity.email in {"bob@example.com"}',
        'identity.email matches "@example[.]com$"',
        'identity.name == "Ada"',
        'any(identity.groups.name[*] in {"contractors"})',
        'any(identity.groups.id[*] in {"contractors"})',
        'any(identity.groups.email[*] in {"ops@example.com"})',
        'identity.oidc_claims["department"] == "research"',
        'any(identity.groups.name[*] in {"x"}) or identity.name == "Ada"',
    ],
)
def test_a_person_is_matched_by_what_the_sign_in_said(expression: str) -> None:
    """domain.md, section 7: e-mail, name, groups and claims."""
    assert first_match([made(expression)], ADA) is not None
    assert first_match([made(f"not ({expression})")], ADA) is None
    assert (
        first_match([made(expression)], Holder("", "eve@elsewhere.org", "Eve", (), ())) is None or "not" in expression
    )


def test_a_machine_is_matched_by_its_service_token() -> None:
    mine = new(SERVICE_TOKEN)
    rule = made(f'identity.service_token_uuid == "{mine}"')
    assert first_match([rule], Holder(mine)) == rule
    assert first_match([rule], Holder(new(SERVICE_TOKEN))) is None
    assert first_match([rule], ADA) is None
    assert first_match([made('identity.email == "ada@example.com"')], Holder(mine)) is None


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6)))
def test_the_lowest_precedence_that_is_enabled_and_matches_decides(
    order: list[int], matching: set[int], enabled: set[int]
) -> None:
    """Decision 24, whatever the order in which they were made."""
    profiles = [
        made(f'identity.name == "{"Ada" if each in matching else "Bob"}"', each, enabled=each in enabled)
        for each in order
    ]
    expected = min(matching & enabled, default=None)
    decider = first_match(profiles, ADA)
    assert (decider.precedence if decider else None) == expected
    steps = trace(profiles, ADA)
    assert [step.profile.precedence for step in steps] == sorted(order)
    assert {step.profile.precedence for step in steps if step.matched} == matching
    assert [step.profile.precedence for step in steps if step.decides] == ([expected] if expected else [])


async def test_the_first_profile_that_matches_chooses_the_subnet(world: World, desk: Desk) -> None:
    """Decision 24: none → the default subnet."""
    lab = await create(desk, world, "10.1.0.0/24")
    office = await create(desk, world, "10.2.0.0/24")
    await profile(desk, world, office, 'identity.email matches "@example.com$"', 20)
    await profile(desk, world, lab, 'any(identity.groups.name[*] in {"contractors"})', 10)
    assert (await reserve(world, ADA)).ipv4 >> 8 == LAB
    assert (await reserve(world, Holder("", "bob@example.com"))).ipv4 >> 8 == 0x0A0200
    assert (await reserve(world, Holder("", "eve@elsewhere.org"))).ipv4 >> 20 == 0x646
    assert (await reserve(world, NOBODY)).ipv4 >> 20 == 0x646


async def test_an_edit_counts_for_whoever_enrolls_next(world: World, desk: Desk) -> None:
    """Assigned at registration only: who has an address keeps it."""
    lab = await create(desk, world, "10.1.0.0/24")
    rule = await profile(desk, world, lab, 'identity.name == "Ada"')
    first = await reserve(world, ADA)
    rule.enabled = False
    rule = await update(desk, world, rule, "enabled")
    assert (await reserve(world, ADA)).ipv4 >> 20 == 0x646
    assert await world.lease(first) == first
    rule.enabled, rule.match = True, 'identity.name == "Bob"'
    rule = await update(desk, world, rule, "enabled", "match")
    assert (await reserve(world, ADA)).ipv4 >> 20 == 0x646
    assert (await reserve(world, Holder("", "", "Bob"))).ipv4 >> 8 == LAB
    gone = pb.DeleteIpProfileRequest(organization_id=world.organization, ip_profile_id=rule.ip_profile_id)
    await desk.send(gone)
    assert (await reserve(world, Holder("", "", "Bob"))).ipv4 >> 20 == 0x646


async def test_a_full_subnet_fails_the_enrollment_and_no_other_profile_is_asked(world: World, desk: Desk) -> None:
    """Decision 24: no fall-through, neither to the next profile nor to the default subnet."""
    lab = await create(desk, world, "10.1.0.0/24")
    await profile(desk, world, lab, 'identity.name == "Ada"', 10)
    await profile(desk, world, await create(desk, world, "10.2.0.0/24"), 'identity.name == "Ada"', 20)
    for _ in range(254):
        await reserve(world, ADA)
    with pytest.raises(SubnetExhausted) as error:
        await reserve(world, ADA)
    assert error.value.metadata == {"subnet": "10.1.0.0/24"}
    await world.reserve()


async def test_two_profiles_never_have_one_precedence(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24")
    await profile(desk, world, lab, 'identity.name == "Ada"', 10)
    with pytest.raises(PrecedenceTaken):
        await profile(desk, world, lab, 'identity.name == "Bob"', 10)
    other = await profile(desk, world, lab, 'identity.name == "Bob"', 11)
    other.precedence = 10
    with pytest.raises(PrecedenceTaken):
        await update(desk, world, other, "precedence")
    other.precedence, other.display_name = 11, "Same place"
    assert (await update(desk, world, other, "precedence", "display_name")).display_name == "Same place"


async def test_an_organization_has_at_most_thirty_profiles(world: World, desk: Desk) -> None:
    """domain.md, section 7."""
    lab = await create(desk, world, "10.1.0.0/24")
    for number in range(LIMIT):
        await profile(desk, world, lab, 'identity.name == "Ada"', number + 1)
    with pytest.raises(LimitReached) as error:
        await profile(desk, world, lab, 'identity.name == "Ada"', 99)
    assert error.value.metadata == {"limit": "30"}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("display_name", "", FieldRequired),
        ("display_name", "x" * 101, InvalidField),
        ("description", "x" * 501, InvalidField),
        ("match", "", FieldRequired),
        ("match", "identity.emial == 7", InvalidField),
        ("match", 'net.dst.ip == "10.0.0.1"', InvalidField),
        ("match", "identity.email in $people", InvalidField),
        ("match", f'identity.name == "{"x" * 10_000}"', InvalidField),
        ("precedence", 0, FieldRequired),
        ("precedence", -1, InvalidField),
        ("precedence", 1_000_001, InvalidField),
        ("subnet_id", "", FieldRequired),
        ("subnet_id", "x", InvalidField),
    ],
)
async def test_what_a_profile_cannot_have_is_named(
    world: World, desk: Desk, field: str, value: Any, expected: type[FieldRequired | InvalidField]
) -> None:
    fields = {"display_name": "P", "match": 'identity.name == "Ada"', "precedence": 1, "subnet_id": new(SUBNET)}
    request = pb.CreateIpProfileRequest(
        organization_id=world.organization,
        ip_profile=pb.IpProfile(**{**fields, field: value}),
    )
    with pytest.raises(expected) as error:
        await desk.send(request)
    assert error.value.field == f"ip_profile.{field}"


async def test_a_match_of_ten_thousand_characters_is_accepted(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24")
    people = " ".join(f'"person{number}@example.com"' for number in range(1000))
    text = f"identity.email in {{{people}}}"[:9_900].rpartition(" ")[0] + "}"
    assert (await profile(desk, world, lab, text)).match == text


async def test_a_profile_names_a_subnet_that_is_there(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24")
    with pytest.raises(SubnetNotFound):
        await profile(desk, world, pb.Subnet(subnet_id=new(SUBNET)), 'identity.name == "Ada"')
    rule = await profile(desk, world, lab, 'identity.name == "Ada"')
    rule.subnet_id = new(SUBNET)
    with pytest.raises(SubnetNotFound):
        await update(desk, world, rule, "subnet_id")


async def test_a_change_to_a_state_that_is_gone_is_refused(world: World, desk: Desk) -> None:
    rule = await profile(desk, world, await create(desk, world, "10.1.0.0/24"), 'identity.name == "Ada"')
    changed = pb.IpProfile()
    changed.CopyFrom(rule)
    changed.display_name = "Other"
    await update(desk, world, changed, "display_name")
    with pytest.raises(EtagMismatch):
        await update(desk, world, changed, "display_name")
    with pytest.raises(IpProfileNotFound):
        request = pb.GetIpProfileRequest(
            organization_id=world.organization, ip_profile_id=new_id(IP_PROFILE, world.clock.now())
        )
        await desk.send(request)


async def test_a_match_says_what_a_reservation_would_do(world: World, desk: Desk) -> None:
    about: dict[str, Any] = {"organization_id": world.organization}
    person = identity_pb2.HolderIdentity(email="ada@example.com", display_name="Ada", groups=["contractors"])
    assert await desk.send(pb.MatchIpProfileRequest(**about, identity=person)) == pb.MatchIpProfileResponse()
    lab = await create(desk, world, "10.1.0.0/24")
    default = (await desk.send(pb.ListSubnetsRequest(**about))).subnets[0]
    rule = await profile(desk, world, lab, 'any(identity.groups.name[*] in {"contractors"})', 20)
    found = await desk.send(pb.MatchIpProfileRequest(**about, identity=person))
    assert (found.ip_profile_id, found.subnet_id) == (rule.ip_profile_id, lab.subnet_id)
    assert [(it.matched, it.decides, it.enabled, it.precedence) for it in found.traces] == [(True, True, True, 20)]
    found = await desk.send(pb.MatchIpProfileRequest(**about, service_token_id=new(SERVICE_TOKEN)))
    assert (found.ip_profile_id, found.subnet_id) == ("", default.subnet_id)
    with pytest.raises(FieldRequired):
        await desk.send(pb.MatchIpProfileRequest(**about))


async def test_what_is_only_tried_changes_nothing(world: World, desk: Desk) -> None:
    """AIP-163."""
    lab = await create(desk, world, "10.1.0.0/24")
    rule = await profile(desk, world, lab, 'identity.name == "Ada"')
    about: dict[str, Any] = {"organization_id": world.organization, "validate_only": True}
    draft = pb.IpProfile(display_name="N", match='identity.name == "B"', precedence=77, subnet_id=lab.subnet_id)
    before = await desk.dump()
    await desk.send(pb.CreateIpProfileRequest(ip_profile=draft, **about))
    rule.display_name = "Other"
    paths = FieldMask(paths=["display_name"])
    changed = await desk.send(pb.UpdateIpProfileRequest(ip_profile=rule, update_mask=paths, **about))
    assert changed.ip_profile.display_name == "Other"
    await desk.send(pb.DeleteIpProfileRequest(ip_profile_id=rule.ip_profile_id, **about))
    assert await desk.dump() == before


async def reserve(world: World, holder: Holder) -> Any:
    call = world.call(world.organization)
    return await world.ipam.addresses.reserve_addresses(
        call, world.organization, new("reg"), new("dev"), new("usr"), holder
    )


async def update(desk: Desk, world: World, changed: pb.IpProfile, *paths: str) -> pb.IpProfile:
    request = pb.UpdateIpProfileRequest(
        organization_id=world.organization, ip_profile=changed, update_mask=FieldMask(paths=paths)
    )
    answer: pb.IpProfile = (await desk.send(request)).ip_profile
    return answer
