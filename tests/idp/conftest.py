"""A real identity provider, our servers, and somebody who signs in, against each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.plane import ControlPlane
from guardhouse.client import Client, connect
from guardhouse.identity.v1 import identity_pb2 as identity
from tests.idp.processes import Machine, Provider


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def client(plane: ControlPlane) -> Iterator[Client]:
    with connect(plane.profile) as client:
        yield client


@pytest.fixture
def machine(client: Client, plane: ControlPlane, provider: Provider, tmp_path: Path) -> Machine:
    """Alice's, in an organization of its own where the staff may enroll."""
    organization = identity.Organization(display_name="Example")
    made = client.organizations.CreateOrganization(identity.CreateOrganizationRequest(organization=organization))
    organization_id = made.organization.organization_id
    node = identity.IdentityProvider(display_name="Node", issuer=provider.issuer, client_ids=["guardhouse"])
    added = client.identity_providers.CreateIdentityProvider(
        identity.CreateIdentityProviderRequest(organization_id=organization_id, identity_provider=node)
    )
    staff = identity.EnrollmentPolicy(
        display_name="Staff",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=10,
        include=[identity.EnrollmentRule(group="staff")],
    )
    client.enrollment_policies.CreateEnrollmentPolicy(
        identity.CreateEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy=staff)
    )
    return Machine(tmp_path, plane, organization_id, added.identity_provider.identity_provider_id)
