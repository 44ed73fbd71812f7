"""ID tokens that must be refused, sent as a device sends them (invariant I-30)."""

import logging
from collections.abc import Iterator

import pytest

from demo.issuer import Issuer
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.durations import SECOND
from guardhouse.errors import FieldRequired, GuardhouseError, IdTokenInvalid, InvalidField
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from tests.guardhouse_services.identity.bad_tokens import ADA, BAD_TOKENS, CAROL
from tests.plane import Plane
from tests.system.people import World

# What no database has a part in.
pytestmark = [
    pytest.mark.parametrize("engine", ["sqlite"], indirect=True),
    pytest.mark.plane(log_calls=True, anonymous_rate=1e6, anonymous_burst=10**6),
]

UNREAD = {"empty", "more than 16 KiB", "1 MiB", "a line break after it"}
"""Nobody looks into these: no field of that length, or with a line break, is taken for a token."""
NOT_TRIED = (
    "the organization has no identity provider with the token's issuer",
    "not a compact JWS",
    "the payload is malformed",
    "iss is not a text",
)
"""Why a token is refused before there is a provider that could verify it."""


@pytest.fixture
async def issuer(plane: Plane) -> "Iterator[Issuer]":  # type: ignore[misc]
    """A provider of the plane's organization with two keys, by the plane's clock, which stands at a whole second."""
    plane.clock.stop()
    plane.clock.advance(1 - plane.clock.now() % SECOND / SECOND)
    with Issuer([ADA, CAROL], clock=lambda: plane.clock.now() // SECOND) as issuer:
        issuer.rotate_key()
        provider = identity.IdentityProvider(display_name="Other", issuer=issuer.url, client_ids=[issuer.client_id])
        await plane.stub(identity_rpc.IdentityProviderServiceStub).CreateIdentityProvider(
            identity.CreateIdentityProviderRequest(organization_id=plane.organization, identity_provider=provider)
        )
        yield issuer


class Device:
    """What a device learns of a refusal, and what the log says."""

    def __init__(self, world: World, log: pytest.LogCaptureFixture) -> None:
        self._world = world
        self._log = log
        self.refused = 0

    async def refusal(self, token: str) -> GuardhouseError:
        request = await self._world.request(Credential(id_token=token), f"laptop {self.refused}")
        with pytest.raises(GuardhouseError) as raised:
            await self._world.enrollment.Register(request)
        self.refused += 1
        return raised.value

    def reasons(self) -> list[str]:
        """Of each token that was refused, in order. Calls are written a moment after they have ended, or when asked."""
        self._world.plane.nodes["identity"]._journal.flush()
        return [str(record.__dict__["detail"]) for record in self._log.records if is_refusal(record)]


def is_refusal(record: logging.LogRecord) -> bool:
    fields = record.__dict__
    return fields.get("reason") == "ID_TOKEN_INVALID" and str(fields["method"]).endswith("/AuthorizeEnrollment")


@pytest.fixture
def device(world: World, caplog: pytest.LogCaptureFixture) -> Device:
    caplog.set_level("DEBUG")
    return Device(world, caplog)


async def test_every_bad_token_is_refused_alike(
    world: World, issuer: Issuer, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """I-30 and I-31: by one message, the log has the real reason, and the token stands nowhere."""
    names = sorted(BAD_TOKENS.keys() - UNREAD)
    assert len(names) > 100
    tokens = {name: BAD_TOKENS[name][0](issuer) for name in names}
    said = {str(await device.refusal(token)) for token in tokens.values()}
    assert said == {"the ID token is not acceptable"}
    for name, reason in zip(names, device.reasons(), strict=True):
        assert BAD_TOKENS[name][1] in reason or reason.startswith(NOT_TRIED), name
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for name, token in tokens.items():
        assert not any(part[:24] in logged for part in token.split(".") if len(part) >= 24), name
    assert await world.used_seats() == 0
    assert await world.live() == []


async def test_what_cannot_be_a_token_is_not_read(issuer: Issuer, device: Device) -> None:
    """I-34: a megabyte is refused by gRPC already."""
    for name in UNREAD:
        refusal = await device.refusal(BAD_TOKENS[name][0](issuer))
        assert isinstance(refusal, FieldRequired | InvalidField) or refusal.code == "RESOURCE_EXHAUSTED", name


async def test_a_token_is_accepted_once(world: World, issuer: Issuer, device: Device) -> None:
    """Decision 27: replayed it is refused like any other, however it is spelt."""
    policies = world.plane.stub(identity_rpc.EnrollmentPolicyServiceStub)
    everyone = identity.EnrollmentPolicy(
        display_name="Everyone",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=1,
        include=[identity.EnrollmentRule(everyone=identity.Everyone())],
    )
    await policies.CreateEnrollmentPolicy(
        identity.CreateEnrollmentPolicyRequest(organization_id=world.organization_id, enrollment_policy=everyone)
    )
    token = issuer.sign_in(ADA.email)
    await world.enrollment.Register(await world.request(Credential(id_token=token), "phone"))
    refusal = await device.refusal(token)
    assert isinstance(refusal, IdTokenInvalid)
    assert str(refusal) == "the ID token is not acceptable"
    assert device.reasons() == ["replayed: the ID token was used for another request"]


async def test_tokens_of_withdrawn_keys_and_of_strangers_are_refused_alike(issuer: Issuer, device: Device) -> None:
    """A key that was rotated out twice is published no more; a stranger's token does not become ours by its claims."""
    withdrawn = issuer.sign_in(ADA.email)
    issuer.rotate_key()
    issuer.rotate_key()
    with Issuer([ADA], clock=issuer.clock) as stranger:
        tokens = [withdrawn, stranger.sign_in(ADA.email), stranger.sign(issuer.claims(ADA.email))]
    said = {str(await device.refusal(token)) for token in tokens}
    assert said == {"the ID token is not acceptable"}
    first, second, third = device.reasons()
    assert "no key for kid" in first
    assert second == "the organization has no identity provider with the token's issuer"
    assert "no key for kid" in third
