"""Enrolling this machine, as its client does it: make a key, show that we hold it, register it, and replace it later.

The private key never leaves the machine. `enroll` and `rotate` do it all; who needs another order (another transport, a
key that exists already) takes `make_request` and `make_rotation`. Needs `cryptography`, which guardhouse[cli] brings.
"""

import base64
import uuid
from dataclasses import dataclass, field
from typing import Final

from guardhouse import aio, keys
from guardhouse.client import Client
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.keys import CURVE25519, KeyType
from guardhouse.registry.v1 import registry_pb2 as registry

TIMEOUT: Final = 30.0
"""How long an enrollment may take, in seconds: the server gives up on it after as long."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What a machine has once it is enrolled. The secrets are in no representation."""

    private_key: bytes = field(repr=False)
    """32 bytes of the kind that the registration names."""
    token: str = field(repr=False)
    """What the device calls with (`guardhouse.connect(key=token)`), for its own registration. Not shown again."""
    registration: registry.Registration
    device: registry.Device

    @property
    def wireguard(self) -> str:
        """The [Interface] section of this machine, where the key is X25519."""
        return render_wireguard(self.private_key, self.registration.ipv4, self.registration.ipv6)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A registration with its new key. The private key is in no representation."""

    private_key: bytes = field(repr=False)
    registration: registry.Registration


def make_request(
    info: registry.GetEnrollmentInfoResponse,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    private_key: bytes,
    request_id: str,
    key_type: KeyType = CURVE25519,
    multi_user: registry.MultiUser | None = None,
    managed: bool = False,
) -> registry.RegisterRequest:
    """The request that registers the key, with the proof that we hold it; on a shared device with whom it is for.

    Sending it again, unchanged, has one effect: a retry goes on where the first call stopped.
    """
    public_key = key_type.public_key(private_key)
    transcript = keys.enrollment_transcript(
        organization_id=organization_id,
        challenge=info.challenge,
        key_type=key_type,
        public_key=public_key,
        hardware_id=device.hardware_id,
        request_id=request_id,
    )
    return registry.RegisterRequest(
        organization_id=organization_id,
        credential=credential,
        device=device,
        key_type=key_type.number,
        public_key=public_key,
        challenge=info.challenge,
        proof=key_type.prove(private_key, info.proof_key, transcript),
        request_id=request_id,
        multi_user=multi_user,
        managed=managed,
    )


def make_rotation(
    info: registry.GetEnrollmentInfoResponse,
    organization_id: str,
    registration_id: str,
    current_public_key: bytes,
    private_key: bytes,
    request_id: str,
    key_type: KeyType = CURVE25519,
) -> registry.RotateKeyRequest:
    """The request that replaces the registration's key by this one, with the proof that we hold it.

    Sending it again, unchanged, has one effect.
    """
    public_key = key_type.public_key(private_key)
    transcript = keys.rotation_transcript(
        organization_id=organization_id,
        challenge=info.challenge,
        key_type=key_type,
        public_key=public_key,
        registration_id=registration_id,
        current_public_key=current_public_key,
        request_id=request_id,
    )
    return registry.RotateKeyRequest(
        organization_id=organization_id,
        registration_id=registration_id,
        current_public_key=current_public_key,
        key_type=key_type.number,
        public_key=public_key,
        challenge=info.challenge,
        proof=key_type.prove(private_key, info.proof_key, transcript),
        request_id=request_id,
    )


def enroll(
    client: Client,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    request_id: str | None = None,
    key_type: KeyType = CURVE25519,
    multi_user: registry.MultiUser | None = None,
    managed: bool = False,
) -> Enrollment:
    """Enrolls this machine with a fresh key; the client needs no key of its own. Raises GuardhouseError.

    What fails for the moment is repeated under the same request_id by the client, so that it has one effect.
    """
    private = key_type.new_private_key()
    info = client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request_id = request_id or uuid.uuid4().hex
    request = make_request(
        info, organization_id, credential, device, private, request_id, key_type, multi_user, managed
    )
    made = client.enrollment.Register(request, timeout=TIMEOUT)
    return Enrollment(private, made.token, made.registration, made.device)


async def enroll_aio(
    client: aio.Client,
    organization_id: str,
    credential: Credential,
    device: registry.DeviceClaims,
    request_id: str | None = None,
    key_type: KeyType = CURVE25519,
    multi_user: registry.MultiUser | None = None,
    managed: bool = False,
) -> Enrollment:
    """As enroll, with a client of guardhouse.aio."""
    private = key_type.new_private_key()
    info = await client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request_id = request_id or uuid.uuid4().hex
    request = make_request(
        info, organization_id, credential, device, private, request_id, key_type, multi_user, managed
    )
    made = await client.enrollment.Register(request, timeout=TIMEOUT)
    return Enrollment(private, made.token, made.registration, made.device)


def rotate(
    client: Client,
    organization_id: str,
    registration: registry.Registration,
    private_key: bytes | None = None,
    key_type: KeyType = CURVE25519,
) -> Rotation:
    """Gives the registration a fresh key, or this one; the client calls with the registration's token.

    Its id, addresses, token and session stay, and the old key is refused from now on. Who has to survive a crash in
    between keeps the new private key before calling, and looks with GetRegistration which of the two counts. Raises
    GuardhouseError.
    """
    private = private_key or key_type.new_private_key()
    info = client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request = make_rotation(
        info,
        organization_id,
        registration.registration_id,
        registration.public_key,
        private,
        uuid.uuid4().hex,
        key_type,
    )
    return Rotation(private, client.registrations.RotateKey(request).registration)


async def rotate_aio(
    client: aio.Client,
    organization_id: str,
    registration: registry.Registration,
    private_key: bytes | None = None,
    key_type: KeyType = CURVE25519,
) -> Rotation:
    """As rotate, with a client of guardhouse.aio."""
    private = private_key or key_type.new_private_key()
    info = await client.enrollment.GetEnrollmentInfo(registry.GetEnrollmentInfoRequest(organization_id=organization_id))
    request = make_rotation(
        info,
        organization_id,
        registration.registration_id,
        registration.public_key,
        private,
        uuid.uuid4().hex,
        key_type,
    )
    return Rotation(private, (await client.registrations.RotateKey(request)).registration)


def render_wireguard(private_key: bytes, ipv4: str, ipv6: str) -> str:
    """The [Interface] section that wg-quick(8) reads; peers are the network's to add. The key is X25519."""
    key = base64.b64encode(private_key).decode()
    return f"[Interface]\nPrivateKey = {key}\nAddress = {ipv4}/32, {ipv6}/128\n"
