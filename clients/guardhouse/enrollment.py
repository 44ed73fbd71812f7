"""Enrolling this machine, as its client does it: make a key, show that we hold it, register it.

The private key never leaves the machine. `enroll` does it all; who needs another order (another transport, a key that
exists already) takes `make_request`. Needs `cryptography`, which guardhouse[cli] brings.
"""

import base64
import uuid
from dataclasses import dataclass, field
from typing import Final

from guardhouse import aio, keys
from guardhouse.client import Client
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.registry.v1 import registry_pb2 as registry

TIMEOUT: Final = 30.0
"""How long an enrollment may take, in seconds: the server gives up on it after as long."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What a machine has once it is enrolled. The secrets are in no representation."""

    private_key: bytes = field(repr=False)
    """32 bytes of X25519."""
    token: str = field(repr=False)
    """What the device calls with (`guardhouse.connect(key=token)`), for its own registration. Not shown again."""
    registration: registry.Registration
    device: registry.Device

    @property
    def wireguard(self) -> str:
        """The [Interface] section of this machine."""
        return render_wireguard(self.private_key, self.registration.ipv4, self.registration.ipv6)


def make_request(
    info: registry.GetEnrollmentInfoResponse,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    private_key: bytes,
    request_id: str,
) -> registry.RegisterRequest:
    """The request that registers the key, with the proof that we hold it.

    Sending it again, unchanged, has one effect: a retry goes on where the first call stopped.
    """
    public_key = keys.public_key(private_key)
    transcript = keys.transcript(
        organization_id=organization_id,
        challenge=info.challenge,
        public_key=public_key,
        hardware_id=device.hardware_id,
        request_id=request_id,
    )
    return registry.RegisterRequest(
        organization_id=organization_id,
        credential=credential,
        device=device,
        key_type=registry.KEY_TYPE_CURVE25519,
        public_key=public_key,
        challenge=info.challenge,
        proof=keys.prove(private_key, info.proof_key, transcript),
        request_id=request_id,
    )


def enroll(
    client: Client,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    request_id: str | None = None,
) -> Enrollment:
    """Enrolls this machine with a fresh key; the client needs no key of its own. Raises GuardhouseError.

    What fails for the moment is repeated under the same request_id by the client, so that it has one effect.
    """
    private_key = keys.new_private_key()
    info = client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request = make_request(info, organization_id, credential, device, private_key, request_id or uuid.uuid4().hex)
    made = client.enrollment.Register(request, timeout=TIMEOUT)
    return Enrollment(private_key, made.token, made.registration, made.device)


async def enroll_aio(
    client: aio.Client,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    request_id: str | None = None,
) -> Enrollment:
    """As enroll, with a client of guardhouse.aio."""
    private_key = keys.new_private_key()
    info = await client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request = make_request(info, organization_id, credential, device, private_key, request_id or uuid.uuid4().hex)
    made = await client.enrollment.Register(request, timeout=TIMEOUT)
    return Enrollment(private_key, made.token, made.registration, made.device)


def render_wireguard(private_key: bytes, ipv4: str, ipv6: str) -> str:
    """The [Interface] section that wg-quick(8) reads; peers are the network's to add."""
    key = base64.b64encode(private_key).decode()
    return f"[Interface]\nPrivateKey = {key}\nAddress = {ipv4}/32, {ipv6}/128\n"
