"""`make demo`: the main job of Guardhouse as a transcript, on a control plane and an identity provider of its own.

Every line that it prints was checked; it exits with 1 at the first that differs.
"""

import ipaddress
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import guardhouse
from demo.issuer import Issuer, Person
from demo.plane import ControlPlane
from guardhouse import errors
from guardhouse.client import Client
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.enrollment import Enrollment, enroll
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

SHORT = 4
"""Seconds of the short session timeout."""
PEOPLE = [
    Person("alice@example.com", "Alice", ("engineering",)),
    Person("bob@example.com", "Bob", ("engineering",)),
    Person("carol@example.com", "Carol", ("sales",)),
    Person("mallory@elsewhere.test", "Mallory"),
]

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


class Differs(Exception):
    """A step did not end as it must."""


def title(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def said(text: str) -> None:
    console.print(f"  [green]✓[/green] {text}")


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise Differs(f"{what}: expected {wanted!r}, got {got!r}")


def refused(kind: type[errors.GuardhouseError], call: Callable[[], object]) -> errors.GuardhouseError:
    try:
        call()
    except kind as error:
        return error
    raise Differs(f"expected {kind.reason}, and nothing was refused")


class Demo:
    """The steps, in order. Each uses what the ones before it made."""

    def __init__(self, client: Client, issuer: Issuer) -> None:
        self.client = client
        self.issuer = issuer
        self.organization_id = ""
        self.service_token_id = ""
        self.policies: dict[str, str] = {}
        self.enrolled: dict[str, Enrollment] = {}

    def run(self) -> None:
        title("An organization with 2 seats, its identity provider, and a policy for a domain")
        self.set_up()
        title("Two people enroll with real ID tokens and fresh WireGuard keys")
        self.people_enroll()
        title("Who may not enroll")
        self.others_are_refused()
        title("A machine enrolls with a service token, and takes no seat")
        self.machine_enrolls()
        title("Is the session fresh enough?")
        self.sessions_are_checked()
        title("Revoke keeps the address, delete releases it")
        self.revoke_and_delete()
        title("Removing a user frees the seat and deletes the registrations")
        self.remove_and_return()
        title("The numbers")
        self.numbers()

    # Set-up

    def set_up(self) -> None:
        client = self.client
        made = client.organizations.CreateOrganization(
            identity.CreateOrganizationRequest(organization=identity.Organization(display_name="Example", seat_limit=2))
        )
        self.organization_id = made.organization.organization_id
        said(f"organization {self.organization_id}, {made.organization.seat_limit} seats")
        provider = client.identity_providers.CreateIdentityProvider(
            identity.CreateIdentityProviderRequest(
                organization_id=self.organization_id,
                identity_provider=identity.IdentityProvider(
                    display_name="Example SSO", issuer=self.issuer.url, client_ids=[self.issuer.client_id]
                ),
            )
        )
        said(f"identity provider {provider.identity_provider.issuer}")
        self.enrollment_policy(
            "People of example.com",
            identity.ENROLLMENT_DECISION_ALLOW,
            identity.EnrollmentRule(email_domain="example.com"),
        )
        self.enrollment_policy(
            "Our machines",
            identity.ENROLLMENT_DECISION_SERVICE_AUTH,
            identity.EnrollmentRule(any_valid_service_token=identity.AnyValidServiceToken()),
        )
        for name, duration in (("wiki", "1h30m0s"), ("payroll", f"{SHORT}s"), ("intranet", "")):
            limit = session.CheckSession(enforce=True, duration=duration) if duration else None
            policy = self.client.policies.CreatePolicy(
                session.CreatePolicyRequest(
                    organization_id=self.organization_id,
                    policy=session.Policy(
                        display_name=name,
                        enabled=True,
                        filter=session.POLICY_FILTER_HTTP,
                        action=session.POLICY_ACTION_ALLOW,
                        check_session=limit,
                    ),
                )
            ).policy
            self.policies[name] = policy.policy_id
            said(f"gateway policy {name}: sessions of at most {policy.check_session.duration or 'any age'}")

    def enrollment_policy(
        self, name: str, decision: identity.EnrollmentDecision.ValueType, rule: identity.EnrollmentRule
    ) -> None:
        self.client.enrollment_policies.CreateEnrollmentPolicy(
            identity.CreateEnrollmentPolicyRequest(
                organization_id=self.organization_id,
                enrollment_policy=identity.EnrollmentPolicy(
                    display_name=name, decision=decision, precedence=10 * decision, include=[rule]
                ),
            )
        )
        said(f"enrollment policy: {name}")

    # Enrolling

    def enroll(self, email: str) -> Enrollment:
        credential = Credential(id_token=self.issuer.sign_in(email))
        return self.register(credential, f"laptop-of-{email.partition('@')[0]}")

    def register(self, credential: Credential, machine: str) -> Enrollment:
        device = registry.DeviceClaims(hardware_id=machine, display_name=machine, platform=registry.PLATFORM_LINUX)
        return enroll(self.client, self.organization_id, credential, device)

    def people_enroll(self) -> None:
        for name in ("alice", "bob"):
            made = self.enrolled[name] = self.enroll(f"{name}@example.com")
            registration = made.registration
            ipv4, ipv6 = ipaddress.ip_address(registration.ipv4), ipaddress.ip_address(registration.ipv6)
            expect("IPv4 from the default pool", ipv4 in ipaddress.ip_network("100.96.0.0/12"), True)
            expect("IPv6 from a unique local prefix", ipv6 in ipaddress.ip_network("fd00::/8"), True)
            said(f"{name}: {registration.registration_id} holds {ipv4} and {ipv6}")
        self.expect_seats(2)

    def others_are_refused(self) -> None:
        error = refused(errors.SeatsExhausted, lambda: self.enroll("carol@example.com"))
        said(f"carol, a third person: {error.reason}, {error.message}")
        error = refused(errors.EnrollmentRefused, lambda: self.enroll("mallory@elsewhere.test"))
        said(f"mallory, a stranger: {error.reason}, {error.message}")
        self.expect_seats(2)
        expect("registrations", len(self.registrations()), 2)

    def machine_enrolls(self) -> None:
        token = self.client.service_tokens.CreateServiceToken(
            identity.CreateServiceTokenRequest(organization_id=self.organization_id, display_name="build machines")
        )
        self.service_token_id = token.service_token.service_token_id
        secret = ServiceTokenCredential(client_id=token.service_token.client_id, client_secret=token.client_secret)
        made = self.enrolled["builder"] = self.register(Credential(service_token=secret), "builder-1")
        expect("holder", made.registration.service_token_id, self.service_token_id)
        said(f"builder-1: {made.registration.registration_id} holds {made.registration.ipv4}")
        self.expect_seats(2)

    # Sessions

    def check(self, name: str, policy: str) -> session.CheckAnswer:
        return self.client.checks.CheckSession(
            session.CheckSessionRequest(
                organization_id=self.organization_id,
                registration_id=self.enrolled[name].registration.registration_id,
                policy_id=self.policies[policy],
            )
        ).answer

    def expect_check(self, name: str, policy: str, decision: str, reason: str) -> None:
        answer = self.check(name, policy)
        got = (session.Decision.Name(answer.decision), session.DecisionReason.Name(answer.reason))
        expect(f"{name} against {policy}", got, (f"DECISION_{decision}", f"DECISION_REASON_{reason}"))
        said(f"{name} against {policy}: {decision}, {reason}")

    def reauthenticate(self, name: str, email: str) -> session.ReauthenticateResponse:
        return self.client.sessions.Reauthenticate(
            session.ReauthenticateRequest(
                organization_id=self.organization_id,
                registration_id=self.enrolled[name].registration.registration_id,
                credential=Credential(id_token=self.issuer.sign_in(email)),
            )
        )

    def sessions_are_checked(self) -> None:
        self.expect_check("alice", "wiki", "ALLOW", "SESSION_FRESH")
        self.expect_check("alice", "intranet", "ALLOW", "NO_SESSION_LIMIT")
        self.reauthenticate("alice", "alice@example.com")
        self.expect_check("alice", "payroll", "ALLOW", "SESSION_FRESH")
        with console.status(f"  waiting {SHORT} s for the short session to pass"):
            time.sleep(SHORT)
        self.expect_check("alice", "payroll", "REAUTHENTICATE", "SESSION_EXPIRED")
        self.expect_check("alice", "wiki", "ALLOW", "SESSION_FRESH")
        error = refused(errors.DifferentUser, lambda: self.reauthenticate("alice", "bob@example.com"))
        said(f"bob cannot sign in on alice's device: {error.reason}")
        self.expect_check("alice", "payroll", "REAUTHENTICATE", "SESSION_EXPIRED")
        self.reauthenticate("alice", "alice@example.com")
        self.expect_check("alice", "payroll", "ALLOW", "SESSION_FRESH")

    # Registrations

    def revoke_and_delete(self) -> None:
        registration = self.enrolled["alice"].registration
        ids = [registration.registration_id]
        about: dict[str, Any] = {"organization_id": self.organization_id, "registration_ids": ids}
        revoked = self.client.registrations.RevokeRegistrations(registry.RevokeRegistrationsRequest(**about))
        expect("addresses held", revoked.addresses_held, 2)
        expect("holder", self.lookup(registration.ipv4), registration.registration_id)
        said(f"revoked: {registration.ipv4} is still alice's")
        self.expect_check("alice", "wiki", "BLOCK", "REGISTRATION_REVOKED")
        back = self.client.registrations.UnrevokeRegistrations(registry.UnrevokeRegistrationsRequest(**about))
        restored = back.results[0].registration
        expect("key", restored.public_key, registration.public_key)
        expect("addresses", (restored.ipv4, restored.ipv6), (registration.ipv4, registration.ipv6))
        said(f"unrevoked: the same key and {restored.ipv4}")
        self.expect_check("alice", "wiki", "ALLOW", "SESSION_FRESH")
        self.client.registrations.DeleteRegistrations(registry.DeleteRegistrationsRequest(**about))
        self.expect_check("alice", "wiki", "BLOCK", "REGISTRATION_UNKNOWN")
        error = refused(errors.AddressNotFound, lambda: self.lookup(registration.ipv4))
        said(f"deleted: {error.message}")
        self.expect_seats(2)
        said("alice keeps her seat: seats belong to people, not to devices")

    def lookup(self, address: str) -> str:
        found = self.client.addresses.LookupAddress(
            ipam.LookupAddressRequest(organization_id=self.organization_id, address=address)
        )
        return found.lease.registration_id

    # Users

    def remove_and_return(self) -> None:
        bob = self.enrolled["bob"].registration
        removal = self.client.users.RemoveUsers(
            identity.RemoveUsersRequest(organization_id=self.organization_id, user_ids=[bob.user_id])
        ).removal
        expect("seats freed", removal.seats_freed, 1)
        self.expect_check("bob", "intranet", "BLOCK", "USER_REMOVED")
        self.expect_seats(1)
        removal = self.wait_for(removal)
        said(
            f"removal {removal.removal_id}: {removal.seats_freed} seat, {removal.registrations_deleted} registration, "
            f"{removal.addresses_released} pair of addresses"
        )
        expect("registrations of bob", [it for it in self.registrations() if it.user_id == bob.user_id], [])
        made = self.enrolled["bob"] = self.enroll("bob@example.com")
        expect("user id", made.registration.user_id, bob.user_id)
        self.expect_seats(2)
        said(f"bob enrolls again: the same user, a new registration, {made.registration.ipv4}")
        self.expect_check("bob", "wiki", "ALLOW", "SESSION_FRESH")

    def wait_for(self, removal: identity.Removal) -> identity.Removal:
        end = time.monotonic() + 10
        while not removal.done:
            if time.monotonic() > end:
                raise Differs(f"the removal is not done after 10 s: {removal}")
            time.sleep(0.05)
            removal = self.client.users.GetRemoval(
                identity.GetRemovalRequest(organization_id=self.organization_id, removal_id=removal.removal_id)
            ).removal
        expect("registrations deleted", removal.registrations_deleted, removal.registrations)
        expect("addresses released", removal.addresses_released, removal.registrations)
        return removal

    # The sum

    def registrations(self) -> list[registry.Registration]:
        request = registry.ListRegistrationsRequest(organization_id=self.organization_id)
        return list(self.client.registrations.ListRegistrations(request).registrations)

    def expect_seats(self, used: int) -> None:
        usage = self.client.seats.GetSeatUsage(identity.GetSeatUsageRequest(organization_id=self.organization_id))
        expect("seats used", usage.used, used)
        expect("seats left", usage.available, usage.purchased - used)
        said(f"seats: {usage.used} of {usage.purchased}")

    def numbers(self) -> None:
        organization_id = self.organization_id
        users = self.client.users.ListUsers(identity.ListUsersRequest(organization_id=organization_id)).users
        registrations = self.registrations()
        leases = self.client.addresses.ListAddresses(ipam.ListAddressesRequest(organization_id=organization_id)).leases
        devices = self.client.devices.ListDevices(
            registry.ListDevicesRequest(
                organization_id=organization_id, active_registrations=registry.ACTIVE_REGISTRATIONS_INCLUDE
            )
        ).devices
        names = {user.user_id: user.display_name for user in users} | {self.service_token_id: "build machines"}
        table = Table("registration", "whose", "IPv4", "IPv6", header_style="bold")
        for it in registrations:
            table.add_row(it.registration_id, names[it.user_id or it.service_token_id], it.ipv4, it.ipv6)
        console.print(table)
        expect("users", sorted(names.values()), ["Alice", "Bob", "build machines"])
        expect("devices", len(devices), 3)
        expect("registrations", len(registrations), 2)
        pairs = {(it.registration_id, it.ipv4, it.ipv6) for it in registrations}
        expect("leases", {(it.registration_id, it.ipv4, it.ipv6) for it in leases}, pairs)
        self.expect_seats(2)
        said(
            f"{len(users)} users with a seat, {len(devices)} devices, {len(registrations)} registrations, "
            f"{len(leases)} pairs of addresses"
        )


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="guardhouse-demo-") as folder, Issuer(PEOPLE) as issuer:
        title("A control plane of four services, and an OpenID Connect provider")
        with ControlPlane(Path(folder)) as plane, guardhouse.connect(plane.profile) as client:
            said(f"identity provider at {issuer.url}")
            said("identity, registry, ipam and session over TLS, each with its own SQLite database")
            try:
                Demo(client, issuer).run()
            except (Differs, errors.GuardhouseError) as error:
                console.print(f"  [red]✗ {type(error).__name__}: {error}[/red]")
                console.print(plane.log.read_text()[-4000:], style="dim", markup=False)
                return 1
    console.print(f"\n[bold green]Everything was as it must be[/bold green] ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
