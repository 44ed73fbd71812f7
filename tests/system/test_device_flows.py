"""What docs/registry.md says to type about devices, run as it stands there (decisions 15, 16 and 20)."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.issuer import Issuer, Person
from demo.plane import ControlPlane
from guardhouse.client import Client, connect
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.enrollment import Enrollment, enroll
from guardhouse.errors import ServiceTokenInvalid
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry

DOCUMENT = (Path(__file__).parents[2] / "docs" / "registry.md").read_text()
BIN = Path(sys.executable).parent


def script(heading: str) -> str:
    """The shell block under a heading."""
    found = re.search(rf"^### {heading}\n.*?```sh\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


@dataclass
class Office:
    """An organization with people, a service token, and devices on which they enroll."""

    plane: ControlPlane
    client: Client
    issuer: Issuer
    organization_id: str
    policy_id: str
    token: identity.ServiceToken
    secret: str

    def enroll(self, who: str, hardware_id: str) -> Enrollment:
        if who == "token":
            secret = ServiceTokenCredential(client_id=self.token.client_id, client_secret=self.secret)
            credential = Credential(service_token=secret)
        else:
            credential = Credential(id_token=self.issuer.sign_in(f"{who}@example.com"))
        claims = registry.DeviceClaims(hardware_id=hardware_id, display_name=f"{hardware_id}'s name")
        return enroll(self.client, self.organization_id, credential, claims)

    def run(self, heading: str, **variables: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-euc", script(heading)],
            env={
                **os.environ,
                **variables,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "GUARDHOUSE_PROFILE": str(self.plane.profile),
                "GUARDHOUSE_ORGANIZATION": self.organization_id,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{heading}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def states(self, device_id: str) -> dict[str, str]:
        """Of a device's registrations, by their ids."""
        request = registry.ListRegistrationsRequest(
            organization_id=self.organization_id, device_id=device_id, state=registry.REGISTRATION_FILTER_ALL
        )
        found = self.client.registrations.ListRegistrations(request).registrations
        word = registry.RegistrationState.Name
        return {it.registration_id: word(it.state).removeprefix("REGISTRATION_STATE_") for it in found}

    def listed(self, which: "registry.ActiveRegistrations.ValueType") -> set[str]:
        request = registry.ListDevicesRequest(organization_id=self.organization_id, active_registrations=which)
        return {it.device_id for it in self.client.devices.ListDevices(request).devices}


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    people = [Person("alice@example.com"), Person("bob@example.com")]
    with (
        ControlPlane(tmp_path_factory.mktemp("devices")) as plane,
        Issuer(people) as issuer,
        connect(plane.profile) as client,
    ):
        of_example = identity.CreateOrganizationRequest(organization=identity.Organization(display_name="Example"))
        organization_id = client.organizations.CreateOrganization(of_example).organization.organization_id
        provider = identity.IdentityProvider(display_name="SSO", issuer=issuer.url, client_ids=[issuer.client_id])
        client.identity_providers.CreateIdentityProvider(
            identity.CreateIdentityProviderRequest(organization_id=organization_id, identity_provider=provider)
        )
        made = client.service_tokens.CreateServiceToken(
            identity.CreateServiceTokenRequest(organization_id=organization_id, display_name="runners")
        )
        rules = [
            (identity.ENROLLMENT_DECISION_ALLOW, identity.EnrollmentRule(everyone=identity.Everyone())),
            (
                identity.ENROLLMENT_DECISION_SERVICE_AUTH,
                identity.EnrollmentRule(service_token_id=made.service_token.service_token_id),
            ),
        ]
        policy_ids: list[str] = []
        for precedence, (decision, rule) in enumerate(rules, start=1):
            policy = identity.EnrollmentPolicy(
                display_name=f"policy {precedence}", decision=decision, precedence=precedence, include=[rule]
            )
            request = identity.CreateEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy=policy)
            policy = client.enrollment_policies.CreateEnrollmentPolicy(request).enrollment_policy
            policy_ids.append(policy.enrollment_policy_id)
        yield Office(plane, client, issuer, organization_id, policy_ids[-1], made.service_token, made.client_secret)


def test_a_day_with_a_laptop(office: Office) -> None:
    """Two on one device are reviewed, revoked, one of them is restored, one deleted, and the device deleted."""
    alice, runner = office.enroll("alice", "laptop"), office.enroll("token", "laptop")
    device_id, person = alice.device.device_id, alice.registration.user_id
    assert runner.device.device_id == device_id
    ids = [alice.registration.registration_id, runner.registration.registration_id]

    shown = office.run("Review the registrations of a device", DEVICE=device_id)
    for text in (device_id, "laptop's name", "alice@example.com", "runners", alice.registration.ipv4, *ids):
        assert text in shown

    office.run("Revoke access for all", DEVICE=device_id)
    assert office.states(device_id) == dict.fromkeys(ids, "REVOKED")

    office.run("Unrevoke selected users", DEVICE=device_id, PERSON=person)
    assert office.states(device_id) == {ids[0]: "ACTIVE", ids[1]: "REVOKED"}

    office.run("Delete one registration", REGISTRATION=ids[1])
    assert office.states(device_id) == {ids[0]: "ACTIVE"}

    office.run("Delete a device", DEVICE=device_id)
    assert device_id not in office.listed(registry.ACTIVE_REGISTRATIONS_INCLUDE)
    seats = office.client.seats.GetSeatUsage(identity.GetSeatUsageRequest(organization_id=office.organization_id))
    assert seats.used == 1


def test_a_device_without_registrations_is_seen_when_asked_for(office: Office) -> None:
    bob, other = office.enroll("bob", "phone"), office.enroll("bob", "tablet")
    office.run("Delete one registration", REGISTRATION=bob.registration.registration_id)
    shown = office.run("See devices without registrations")
    assert bob.device.device_id in shown
    assert other.device.device_id not in shown
    assert office.listed(registry.ACTIVE_REGISTRATIONS_ONLY) == {other.device.device_id}


def test_a_device_with_a_service_token_is_gone_for_good(office: Office) -> None:
    """Decisions 11 and 20: not before no policy names the token does it stay away."""
    runner = office.enroll("token", "server")
    device_id = runner.device.device_id
    office.run("Delete a device", DEVICE=device_id)
    back = office.enroll("token", "server")
    assert back.device.device_id != device_id
    office.run(
        "Decommission a device with a service token",
        DEVICE=back.device.device_id,
        POLICY=office.policy_id,
        TOKEN=office.token.service_token_id,
    )
    assert back.device.device_id not in office.listed(registry.ACTIVE_REGISTRATIONS_INCLUDE)
    with pytest.raises(ServiceTokenInvalid):
        office.enroll("token", "server")
