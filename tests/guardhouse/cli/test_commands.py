"""Every command asks for what it says, and every method has a command."""

import json
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import aio, errors
from guardhouse.client import Client
from guardhouse.common.v1 import access_pb2
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import NOON, ORGANIZATION, POLICY, REGISTRATION, USER, Run, commands, words
from tests.guardhouse.scripted import ScriptedServer

METHODS = {
    "identity.OrganizationService.CreateOrganization": "organizations create",
    "identity.OrganizationService.GetOrganization": "organizations show",
    "identity.OrganizationService.ListOrganizations": "organizations list",
    "identity.OrganizationService.UpdateOrganization": "organizations update",
    "identity.OrganizationService.DeleteOrganization": "organizations delete",
    "identity.ApiKeyService.CreateApiKey": "keys create",
    "identity.ApiKeyService.ListApiKeys": "keys list",
    "identity.ApiKeyService.RevokeApiKey": "keys revoke",
    "identity.IdentityProviderService.CreateIdentityProvider": "identity-providers add",
    "identity.IdentityProviderService.GetIdentityProvider": "identity-providers show",
    "identity.IdentityProviderService.ListIdentityProviders": "identity-providers list",
    "identity.IdentityProviderService.UpdateIdentityProvider": "identity-providers update",
    "identity.IdentityProviderService.DeleteIdentityProvider": "identity-providers delete",
    "identity.IdentityProviderService.RefreshScimSecret": "scim rotate",
    "identity.IdentityProviderService.ListScimEvents": "scim log",
    "identity.ServiceTokenService.CreateServiceToken": "service-tokens create",
    "identity.ServiceTokenService.GetServiceToken": "service-tokens show",
    "identity.ServiceTokenService.ListServiceTokens": "service-tokens list",
    "identity.ServiceTokenService.UpdateServiceToken": "service-tokens update",
    "identity.ServiceTokenService.RotateServiceToken": "service-tokens rotate",
    "identity.ServiceTokenService.RefreshServiceToken": "service-tokens refresh",
    "identity.ServiceTokenService.DeleteServiceToken": "service-tokens delete",
    "identity.EnrollmentPolicyService.CreateEnrollmentPolicy": "enrollment-policies create",
    "identity.EnrollmentPolicyService.GetEnrollmentPolicy": "enrollment-policies show",
    "identity.EnrollmentPolicyService.ListEnrollmentPolicies": "enrollment-policies list",
    "identity.EnrollmentPolicyService.UpdateEnrollmentPolicy": "enrollment-policies update",
    "identity.EnrollmentPolicyService.DeleteEnrollmentPolicy": "enrollment-policies delete",
    "identity.EnrollmentPolicyService.TestEnrollment": "enrollment-policies test",
    "identity.EnrollmentPolicyService.GetEnrollmentPolicyUsage": "enrollment-policies usage",
    "identity.EnrollmentPolicyService.ListStrandedRegistrations": "enrollment-policies stranded",
    "identity.RuleGroupService.CreateRuleGroup": "rule-groups create",
    "identity.RuleGroupService.GetRuleGroup": "rule-groups show",
    "identity.RuleGroupService.ListRuleGroups": "rule-groups list",
    "identity.RuleGroupService.UpdateRuleGroup": "rule-groups update",
    "identity.RuleGroupService.DeleteRuleGroup": "rule-groups delete",
    "identity.UserService.GetUser": "users show",
    "identity.UserService.ListUsers": "users list",
    "identity.UserService.RevokeUser": "users revoke",
    "identity.UserService.RemoveUsers": "users remove",
    "identity.UserService.GetRemoval": "users removal",
    "identity.UserService.OffboardUser": "users offboard",
    "identity.UserService.ReinstateUser": "users reinstate",
    "identity.UserService.EraseUser": "users erase",
    "identity.HeldActionService.ListHeldActions": "held-actions list",
    "identity.HeldActionService.ApproveHeldAction": "held-actions approve",
    "identity.HeldActionService.RejectHeldAction": "held-actions reject",
    "registry.HeldActionService.ListHeldActions": "held-actions list",
    "registry.HeldActionService.ApproveHeldAction": "held-actions approve",
    "registry.HeldActionService.RejectHeldAction": "held-actions reject",
    "registry.RegistrationService.ListRegistrationKeys": "registrations keys",
    "registry.RegistrationService.GetOverrideCodes": "registrations override-codes",
    "registry.RegistrationService.CheckOverrideCode": "device check-override",
    "registry.RegistrationService.GetRegistrationUsage": "registrations usage",
    "registry.RegistrationService.PreviewRegistrationExpiration": "registrations expiring",
    "identity.SeatService.GetSeatUsage": "seats show",
    "identity.SeatService.ListSeats": "seats list",
    "identity.SeatService.ExplainSeat": "seats explain",
    "identity.SeatService.PreviewSeatExpiration": "seats expiring",
    "identity.AuditService.ListAuditRecords": "audit tail",
    "identity.AuditService.GetAuditCheckpoint": "audit checkpoint",
    "registry.EnrollmentService.GetEnrollmentInfo": "device enrollment-info",
    "registry.EnrollmentService.Register": "enroll",
    "registry.RegistrationService.GetRegistration": "registrations show",
    "registry.RegistrationService.ListRegistrations": "registrations list",
    "registry.RegistrationService.RevokeRegistrations": "registrations revoke",
    "registry.RegistrationService.UnrevokeRegistrations": "registrations unrevoke",
    "registry.RegistrationService.DeleteRegistrations": "registrations delete",
    "registry.RegistrationService.RotateKey": "device rotate-key",
    "registry.RegistrationService.Heartbeat": "device heartbeat",
    "registry.RegistrationService.Leave": "device leave",
    "registry.DeviceProfileService.CreateDeviceProfile": "profiles create",
    "registry.DeviceProfileService.GetDeviceProfile": "profiles show",
    "registry.DeviceProfileService.ListDeviceProfiles": "profiles list",
    "registry.DeviceProfileService.UpdateDeviceProfile": "profiles update",
    "registry.DeviceProfileService.DeleteDeviceProfile": "profiles delete",
    "registry.DeviceProfileService.MatchDeviceProfile": "profiles match",
    "registry.DeviceService.GetDevice": "devices show",
    "registry.DeviceService.ListDevices": "devices list",
    "registry.DeviceService.UpdateDevice": "devices tag",
    "registry.DeviceService.RevokeDevice": "devices revoke",
    "registry.DeviceService.DeleteDevice": "devices delete",
    "registry.DeviceService.ReportOsSession": "device report-session",
    "registry.DeviceService.ListOsSessions": "devices sessions",
    "registry.GatewayService.ListGateways": "gateway list",
    "registry.GatewayService.ReportHandshakes": "gateway wireguard",
    "registry.AuditService.ListAuditRecords": "audit tail",
    "registry.AuditService.GetAuditCheckpoint": "audit checkpoint",
    "ipam.SubnetService.CreateSubnet": "subnets create",
    "ipam.SubnetService.GetSubnet": "subnets show",
    "ipam.SubnetService.ListSubnets": "subnets list",
    "ipam.SubnetService.UpdateSubnet": "subnets update",
    "ipam.SubnetService.DeleteSubnet": "subnets delete",
    "ipam.IpProfileService.CreateIpProfile": "ip-profiles create",
    "ipam.IpProfileService.GetIpProfile": "ip-profiles show",
    "ipam.IpProfileService.ListIpProfiles": "ip-profiles list",
    "ipam.IpProfileService.UpdateIpProfile": "ip-profiles update",
    "ipam.IpProfileService.DeleteIpProfile": "ip-profiles delete",
    "ipam.IpProfileService.MatchIpProfile": "ip-profiles match",
    "ipam.AddressService.LookupAddress": "addresses show",
    "ipam.AddressService.ListAddresses": "addresses list",
    "ipam.AddressService.ListAddressHistory": "addresses history",
    "ipam.AddressService.GetAddressMap": "addresses map",
    "ipam.AddressService.PinAddress": "addresses pin",
    "ipam.AddressService.UnpinAddress": "addresses unpin",
    "ipam.AddressService.ListPins": "addresses pins",
    "ipam.AuditService.ListAuditRecords": "audit tail",
    "ipam.AuditService.GetAuditCheckpoint": "audit checkpoint",
    "session.PolicyService.CreatePolicy": "policies create",
    "session.PolicyService.GetPolicy": "policies show",
    "session.PolicyService.ListPolicies": "policies list",
    "session.PolicyService.UpdatePolicy": "policies update",
    "session.PolicyService.DeletePolicy": "policies delete",
    "session.PolicyService.ReorderPolicies": "policies reorder",
    "session.PolicyService.TestPolicies": "policies test",
    "session.ListService.CreateList": "lists create",
    "session.ListService.GetList": "lists show",
    "session.ListService.ListLists": "lists list",
    "session.ListService.UpdateList": "lists update",
    "session.ListService.DeleteList": "lists delete",
    "session.ApplicationService.CreateApplication": "applications create",
    "session.ApplicationService.GetApplication": "applications show",
    "session.ApplicationService.ListApplications": "applications list",
    "session.ApplicationService.UpdateApplication": "applications update",
    "session.ApplicationService.DeleteApplication": "applications delete",
    "session.ApplicationService.GetDeviceSessionSettings": "device-sessions show",
    "session.ApplicationService.UpdateDeviceSessionSettings": "device-sessions update",
    "session.ApplicationService.ListSigningKeys": "signing-keys list",
    "session.ApplicationService.RotateSigningKey": "signing-keys rotate",
    "session.SessionService.LogIn": "applications log-in",
    "session.SessionService.GetSession": "sessions show",
    "session.SessionService.ListSessions": "sessions list",
    "session.SessionService.RevokeSessions": "sessions revoke",
    "session.SessionService.StartReauthentication": "sessions start-reauthentication",
    "session.SessionService.Reauthenticate": "sessions reauthenticate",
    "session.SessionService.RefreshIdentity": "sessions refresh",
    "session.CheckService.CheckSession": "check",
    "session.CheckService.BatchCheckSessions": "checks batch",
    "session.CheckService.StreamCheckSessions": "checks stream",
    "session.CheckService.CheckTraffic": "checks traffic",
    "session.CheckService.BatchCheckTraffic": "checks traffic-batch",
    "session.CheckService.CheckApplication": "checks application",
    "session.AuditService.ListAuditRecords": "audit tail",
    "session.AuditService.GetAuditCheckpoint": "audit checkpoint",
}
BESIDES = {
    *("status", "audit verify", "explain check", "explain traffic", "device show", "device reauthenticate"),
    "scim update",
    *("policies set-timeout", "policies import", "policies export", "login", "mdm check", "mdm render"),
    *("addresses who", "agent run", "agent status", "agent tell", "agent leave"),
}
"""Commands of several methods, or of one that has its own command as well."""

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def public_methods() -> set[str]:
    """What anybody but a service may call, but for the feeds, which are followed and not called."""
    found = set()
    for contract in (identity, registry, ipam, session):
        package = contract.DESCRIPTOR.package.split(".")[1]
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[access_pb2.access]
                if (rule.roles or rule.device or rule.anonymous) and method.name != "Watch":
                    found.add(f"{package}.{service.name}.{method.name}")
    return found


def test_every_method_has_a_command() -> None:
    assert public_methods() == set(METHODS)
    assert {name for name, _ in commands()} == {*METHODS.values(), *BESIDES}


def test_every_method_is_of_a_stub_that_clients_have() -> None:
    """Both kinds of client have all public services."""
    services = {tuple(method.split(".")[:2]) for method in METHODS}
    for client in (Client, aio.Client):
        stubs = [stub for stub in vars(client).values() if type(stub).__name__ == "Stub"]
        found = {(stub._service, stub._make.__name__.removesuffix("Stub")) for stub in stubs}
        assert found == services


def test_every_command_is_in_the_guide_and_says_what_it_does() -> None:
    guide = DOCS.read_text()
    for name, command in commands():
        assert f"`{name}`" in guide, name
        assert command.help, name


def test_seat_limits_are_numbers_or_unlimited(run: Run, installation: ScriptedServer) -> None:
    installation.answers["UpdateOrganization"] = lambda request: identity.UpdateOrganizationResponse(
        organization=request.organization
    )
    installation.answers["GetOrganization"] = identity.GetOrganizationResponse()
    run("organizations update --seat-limit 25")
    run("organizations update --seat-limit unlimited")
    numbered, unlimited = installation.requests("UpdateOrganization")
    assert numbered.organization.seat_limit == 25
    assert not unlimited.organization.HasField("seat_limit")
    assert list(numbered.update_mask.paths) == list(unlimited.update_mask.paths) == ["seat_limit"]
    run("organizations update --seat-limit many", exit_code=2)
    run("organizations update", exit_code=2)
    run("identity-providers update idp_1", exit_code=2)
    run("identity-providers update idp_1 --oidc-claim department --no-oidc-claims", exit_code=2)
    run("identity-providers update idp_1 --jwks-host keys.example --no-jwks-host", exit_code=2)
    run("service-tokens update svt_1", exit_code=2)


def test_numbers_that_the_contract_cannot_hold_are_refused(run: Run, installation: ScriptedServer) -> None:
    for seats in (str(2**63), "9" * 5000):
        said = words(run(f"organizations create Example --seat-limit {seats}", exit_code=2).stderr)
        assert "neither a number of at most 9223372036854775807 nor unlimited" in said
    for line in ("create Staff --include everyone", "update enp_1"):
        assert "--precedence" in run(f"enrollment-policies {line} --precedence {2**31}", exit_code=2).stderr
    assert not installation.calls
    installation.answers["CreateOrganization"] = identity.CreateOrganizationResponse()
    run(f"organizations create Example --seat-limit {2**63 - 1}")


def test_behind_the_last_precedence_there_is_none(run: Run, installation: ScriptedServer) -> None:
    last = identity.EnrollmentPolicy(precedence=2**31 - 1)
    installation.answers["ListEnrollmentPolicies"] = identity.ListEnrollmentPoliciesResponse(enrollment_policies=[last])
    installation.answers["CreateEnrollmentPolicy"] = errors.PrecedenceTaken("it is taken")
    assert "choose another" in run("enrollment-policies create Staff --include everyone", exit_code=1).stderr


@pytest.mark.parametrize("form", ["{} ''", "{}="])
def test_an_empty_value_is_no_value(run: Run, installation: ScriptedServer, form: str) -> None:
    """Of any option of any command: a variable that is not set must not mean everybody, or without a limit."""
    for name, command in commands():
        for option in (max(it.opts, key=len) for it in command.params if it.opts[0].startswith("-") and not it.is_flag):
            if option != "--description":
                said = words(run(f"{name} {form.format(option)}", exit_code=2).stderr)
                assert f"Invalid value for {option}: it is empty" in said, name
    for line in ("seats -o ''", "seats --profile ''", f"policies delete '' {POLICY} --yes", "users show -- ''"):
        assert "it is empty" in run(line, exit_code=2).stderr
    assert not installation.calls


def test_a_description_may_be_emptied(run: Run, installation: ScriptedServer) -> None:
    installation.answers["UpdatePolicy"] = session.UpdatePolicyResponse()
    run(f"policies update {POLICY} --description '' --etag e1")
    (request,) = installation.requests("UpdatePolicy")
    assert list(request.update_mask.paths) == ["description"]


def test_rules_of_an_enrollment_policy_are_written_as_they_are_shown(run: Run, installation: ScriptedServer) -> None:
    behind = identity.EnrollmentPolicy(precedence=30)
    installation.answers["ListEnrollmentPolicies"] = identity.ListEnrollmentPoliciesResponse(
        enrollment_policies=[behind, identity.EnrollmentPolicy(precedence=20)]
    )
    installation.answers["CreateEnrollmentPolicy"] = lambda request: identity.CreateEnrollmentPolicyResponse(
        enrollment_policy=request.enrollment_policy
    )
    shown = run(
        "enrollment-policies create Staff --include email-domain=example.com --include group=a=b"
        " --require everyone --exclude email=eve@example.com"
    ).stdout
    policy = installation.requests("CreateEnrollmentPolicy")[0].enrollment_policy
    assert policy == identity.EnrollmentPolicy(
        display_name="Staff",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=40,
        include=[
            identity.EnrollmentRule(email_domain="example.com"),
            identity.EnrollmentRule(group="a=b"),
        ],
        require=[identity.EnrollmentRule(everyone=identity.Everyone())],
        exclude=[identity.EnrollmentRule(email="eve@example.com")],
    )
    assert policy.require[0].HasField("everyone")
    for text in ("email-domain=example.com, group=a=b", "everyone", "email=eve@example.com"):
        assert text in shown
    for wrong in ("nobody", "email", "everyone=yes"):
        run(f"enrollment-policies create X --include {wrong}", exit_code=2)


def test_a_trial_shows_every_policy_with_its_rules(run: Run, installation: ScriptedServer) -> None:
    """Decision 12: what each rule was compared with stands beside it."""
    step = identity.EnrollmentRuleTrace(
        place="include[0]", rule=identity.EnrollmentRule(country="DE"), finding="the country is not known"
    )
    trace = identity.EnrollmentPolicyTrace(
        display_name="Staff",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=7,
        mismatch="none of its include rules matches",
        rules=[step],
        rules_omitted=2,
    )
    installation.answers["TestEnrollment"] = identity.TestEnrollmentResponse(explanation="refused", trace=[trace])
    shown = run(f"enrollment-policies test --email eve@example.com -o {ORGANIZATION}").stdout
    assert [" ".join(line.split()) for line in shown.splitlines()[-4:]] == [
        "PRECEDENCE POLICY DECISION RULE MATCHED BECAUSE",
        "7 Staff allow - no none of its include rules matches",
        "- - - include[0] country=DE no the country is not known",
        "- - - - - and 2 more rules",
    ]


def test_narrowing_a_policy_says_who_stays_connected(run: Run, installation: ScriptedServer) -> None:
    """Decision 13; and what is surely not meant is said, and done all the same."""
    installation.answers["UpdateEnrollmentPolicy"] = identity.UpdateEnrollmentPolicyResponse(
        enrollment_policy=identity.EnrollmentPolicy(display_name="Staff"),
        warnings=["it never decides"],
        stranded_users=1,
        stranded_registrations=2,
    )
    line = f"enrollment-policies update enp_1 --include group=ops --etag e1 -o {ORGANIZATION}"
    said = " ".join(run(line).stderr.split())
    assert "warning: it never decides" in said
    assert "2 registrations of 1 user whom no policy would admit again stay connected until deleted" in said
    assert "would stay connected" in " ".join(run(f"{line} --dry-run").stderr.split())


def test_an_update_names_only_what_changes(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetPolicy"] = session.GetPolicyResponse(policy=session.Policy(etag="now"))
    installation.answers["UpdatePolicy"] = lambda request: session.UpdatePolicyResponse(policy=request.policy)
    run(f"policies update {POLICY} --timeout 8h --disable")
    run(f"policies update {POLICY} --no-timeout --filter http")
    shorter, without = installation.requests("UpdatePolicy")
    assert sorted(shorter.update_mask.paths) == ["check_session", "enabled"]
    assert shorter.policy.check_session == session.CheckSession(enforce=True, duration="8h")
    assert shorter.policy.enabled is False
    assert sorted(without.update_mask.paths) == ["check_session", "filter"]
    assert not without.policy.HasField("check_session")
    assert without.policy.filter == session.POLICY_FILTER_HTTP
    run(f"policies update {POLICY}", exit_code=2)
    run(f"policies update {POLICY} --timeout 8h --no-timeout", exit_code=2)


@pytest.mark.parametrize(
    ("line", "read", "update"),
    [
        (f"policies update {POLICY} --enable", session.GetPolicyResponse(policy=session.Policy(etag="now")), "policy"),
        (
            "enrollment-policies update enp_1 --precedence 3",
            identity.GetEnrollmentPolicyResponse(enrollment_policy=identity.EnrollmentPolicy(etag="now")),
            "enrollment_policy",
        ),
        (
            "organizations update --name Other",
            identity.GetOrganizationResponse(organization=identity.Organization(etag="now")),
            "organization",
        ),
        (
            "identity-providers update idp_1 --force-interaction",
            identity.GetIdentityProviderResponse(identity_provider=identity.IdentityProvider(etag="now")),
            "identity_provider",
        ),
        (
            "applications update app_1 --binding-cookie",
            session.GetApplicationResponse(application=session.Application(etag="now")),
            "application",
        ),
        (
            "device-sessions update --apply-by-default",
            session.GetDeviceSessionSettingsResponse(settings=session.DeviceSessionSettings(etag="now")),
            "settings",
        ),
    ],
)
def test_an_update_is_of_what_was_there_when_it_began(
    run: Run, installation: ScriptedServer, line: str, read: Message, update: str
) -> None:
    """So that two who update at once do not undo each other unseen (AIP-154)."""
    get = type(read).__name__.removesuffix("Response")
    method = get.replace("Get", "Update")
    response = descriptor_pool.Default().FindMessageTypeByName(read.DESCRIPTOR.full_name.replace(".Get", ".Update"))
    installation.answers |= {get: read, method: GetMessageClass(response)()}
    run(line)
    run(f"{line} --etag mine")
    assert [getattr(request, update).etag for request in installation.requests(method)] == ["now", "mine"]
    assert len(installation.requests(get)) == 1


def test_tags_are_given_and_removed_one_by_one(run: Run, installation: ScriptedServer) -> None:
    """What is not named stays, and who writes at the same time is not undone unseen (AIP-154)."""
    present = registry.Device(device_id="dev_1", tags={"site": "Ulm", "owner": "it"}, etag="now")
    installation.answers["GetDevice"] = registry.GetDeviceResponse(device=present)
    installation.answers["UpdateDevice"] = lambda request: registry.UpdateDeviceResponse(device=request.device)
    shown = run("devices tag dev_1 site=Bonn formula=a=b --remove owner --remove unknown").stdout
    assert "formula=a=b, site=Bonn" in shown
    (request,) = installation.requests("UpdateDevice")
    assert request.device == registry.Device(device_id="dev_1", tags={"site": "Bonn", "formula": "a=b"}, etag="now")
    assert list(request.update_mask.paths) == ["tags"]
    assert not request.validate_only
    run("devices tag dev_1 site=Bonn --dry-run")
    assert installation.requests("UpdateDevice")[-1].validate_only
    for wrong in ("", "site"):
        run(f"devices tag dev_1 {wrong}", exit_code=2)


def test_rules_that_are_named_replace_those_of_their_kind(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetEnrollmentPolicy"] = identity.GetEnrollmentPolicyResponse()
    installation.answers["UpdateEnrollmentPolicy"] = identity.UpdateEnrollmentPolicyResponse()
    run("enrollment-policies update enp_1 --include everyone --no-exclude --decision block")
    (request,) = installation.requests("UpdateEnrollmentPolicy")
    assert sorted(request.update_mask.paths) == ["decision", "exclude", "include"]
    assert list(request.enrollment_policy.include) == [identity.EnrollmentRule(everyone=identity.Everyone())]
    assert not request.enrollment_policy.exclude
    run("enrollment-policies update enp_1", exit_code=2)
    run("enrollment-policies update enp_1 --exclude email=a@b.c --no-exclude", exit_code=2)


def test_staleness_is_closed_or_open_for_a_while(run: Run, installation: ScriptedServer) -> None:
    installation.answers["CreatePolicy"] = lambda request: session.CreatePolicyResponse(policy=request.policy)
    assert "open-bounded" in run("policies create Wiki --staleness open:1h").stdout
    run("policies create Wiki --staleness closed")
    opened, closed = (request.policy.staleness for request in installation.requests("CreatePolicy"))
    assert opened == session.Staleness(mode=session.STALENESS_MODE_OPEN_BOUNDED, max_open="1h")
    assert closed == session.Staleness(mode=session.STALENESS_MODE_CLOSED)
    for wrong in ("open", "open:", "closed:1h", "1h"):
        run(f"policies create Wiki --staleness {wrong}", exit_code=2)


@pytest.mark.usefixtures("in_tokyo")
def test_who_held_an_address_is_asked_in_local_time(run: Run, installation: ScriptedServer) -> None:
    installation.answers["LookupAddress"] = ipam.LookupAddressResponse()
    run("addresses show fd00::1 --at 2026-09-21T23:13:20")
    assert installation.requests("LookupAddress")[0].time == NOON


def test_a_row_of_sessions_has_room_for_who_asks_next(run: Run, installation: ScriptedServer) -> None:
    asked_again = [
        session.NextReauthentication(policy_id=POLICY, display_name=name, time=NOON) for name in ("Wiki", "Mail")
    ]
    listed = session.Session(registration_id=REGISTRATION, user_id=USER, next_reauthentications=asked_again)
    installation.answers["ListSessions"] = session.ListSessionsResponse(sessions=[listed])
    shown = run(f"sessions list --user {USER} --expired").stdout
    assert "Wiki" in shown
    assert "Mail" not in shown
    assert "Mail" in run("sessions list --json").stdout
    filtered, whole = installation.requests("ListSessions")
    assert (filtered.user_id, filtered.only_expired) == (USER, True)
    assert (whole.user_id, whole.only_expired) == ("", False)


def test_where_to_sign_in_comes_with_a_challenge(run: Run, installation: ScriptedServer) -> None:
    """Decisions 33 and 34."""
    sign_in = session.SignIn(issuer="https://idp.example", client_ids=["cli"], force_interaction=True)
    answer = session.StartReauthenticationResponse(sign_in=sign_in, challenge="1.mac", expire_time=NOON)
    installation.answers["StartReauthentication"] = answer
    shown = run(f"sessions start-reauthentication {REGISTRATION}").stdout
    assert "https://idp.example" in shown
    assert "1.mac" in shown
    answer.ClearField("sign_in")
    assert "a machine signs in nowhere" in run(f"sessions start-reauthentication {REGISTRATION}").stderr.lower()


def test_a_registration_reauthenticates_with_a_token_from_a_pipe(run: Run, installation: ScriptedServer) -> None:
    installation.answers["Reauthenticate"] = session.ReauthenticateResponse(authenticate_time=NOON)
    run(f"sessions reauthenticate {REGISTRATION} --id-token-file -", stdin="signed\n")
    run(f"sessions reauthenticate {REGISTRATION} --client-id me.access --client-secret s")
    person, machine = (request.credential for request in installation.requests("Reauthenticate"))
    assert person.id_token == "signed"
    assert (machine.service_token.client_id, machine.service_token.client_secret) == ("me.access", "s")
    run(f"sessions reauthenticate {REGISTRATION}", exit_code=2)
    run(f"sessions reauthenticate {REGISTRATION} --client-id me.access", exit_code=2)


LISTS: list[tuple[str, Message]] = [
    ("organizations list", identity.ListOrganizationsResponse(organizations=[identity.Organization()])),
    ("keys list --installation", identity.ListApiKeysResponse(api_keys=[identity.ApiKey()])),
    (
        "identity-providers list",
        identity.ListIdentityProvidersResponse(identity_providers=[identity.IdentityProvider()]),
    ),
    ("service-tokens list", identity.ListServiceTokensResponse(service_tokens=[identity.ServiceToken()])),
    (
        "enrollment-policies list",
        identity.ListEnrollmentPoliciesResponse(enrollment_policies=[identity.EnrollmentPolicy()]),
    ),
    ("rule-groups list", identity.ListRuleGroupsResponse(rule_groups=[identity.RuleGroup()])),
    ("users list", identity.ListUsersResponse(users=[identity.User()])),
    ("seats list", identity.ListSeatsResponse(seats=[identity.Seat()])),
    ("devices list", registry.ListDevicesResponse(devices=[registry.Device()])),
    ("registrations list", registry.ListRegistrationsResponse(registrations=[registry.Registration()])),
    ("profiles list", registry.ListDeviceProfilesResponse(device_profiles=[registry.DeviceProfile()])),
    ("subnets list", ipam.ListSubnetsResponse(subnets=[ipam.Subnet()])),
    ("ip-profiles list", ipam.ListIpProfilesResponse(ip_profiles=[ipam.IpProfile()])),
    ("addresses list", ipam.ListAddressesResponse(leases=[ipam.Lease()])),
    ("gateway list", registry.ListGatewaysResponse(gateways=[registry.Gateway()])),
    ("policies list", session.ListPoliciesResponse(policies=[session.Policy()])),
    ("lists list", session.ListListsResponse(lists=[session.List()])),
    ("applications list", session.ListApplicationsResponse(applications=[session.Application()])),
    ("signing-keys list", session.ListSigningKeysResponse(signing_keys=[session.SigningKey()])),
    ("sessions list", session.ListSessionsResponse(sessions=[session.Session()])),
]


def test_every_list_is_known_here() -> None:
    lists = [name for name, _ in commands() if name.endswith(" list")]
    # It lists what two services hold, and has a test of its own.
    lists.remove("held-actions list")
    assert sorted(lists) == sorted(" ".join(line.split()[:2]) for line, _ in LISTS)


@pytest.mark.parametrize(("line", "response"), LISTS, ids=[line for line, _ in LISTS])
def test_every_list_is_a_table_of_what_there_is(
    run: Run, installation: ScriptedServer, line: str, response: Message
) -> None:
    installation.answers[type(response).__name__.removesuffix("Response")] = response
    header, row = run(f"{line} -o {ORGANIZATION}").stdout.splitlines()
    assert header.isupper()
    assert "-" in row.split()


def test_held_actions_are_those_of_users_and_those_of_registrations(run: Run, installation: ScriptedServer) -> None:
    """Whichever service holds the action that is decided about."""

    def answer(request: Message) -> Message:
        if isinstance(request, identity.ListHeldActionsRequest):
            removal = identity.HeldAction(source="seat expiration", effect=identity.HELD_EFFECT_REMOVE, users=60)
            return identity.ListHeldActionsResponse(held_actions=[removal])
        deletion = registry.HeldAction(source="revoked registrations", registrations=51, registrations_done=7)
        return registry.ListHeldActionsResponse(held_actions=[deletion])

    def decide(request: Message) -> Message:
        if isinstance(request, identity.RejectHeldActionRequest | identity.ApproveHeldActionRequest):
            raise errors.HeldActionNotFound("hld_1")
        kind = getattr(registry, type(request).__name__.replace("Request", "Response"))
        held = registry.HeldAction(source="revoked registrations", registrations=51)
        found: Message = kind(held_action=held)
        return found

    installation.answers["ListHeldActions"] = answer
    header, removal, deletion = run(f"held-actions list -o {ORGANIZATION}").stdout.splitlines()
    assert header.split()[-3:] == ["DONE", "CREATE", "TIME"]
    assert ("remove" in removal, "60" in removal) == (True, True)
    assert ("delete" in deletion, "51" in deletion) == (True, True)
    shown = json.loads(run(f"held-actions list -o {ORGANIZATION} --json").stdout)
    assert [it["users"] for it in shown["held_actions"]] == ["60"]
    assert [it["registrations"] for it in shown["held_deletions"]] == ["51"]
    installation.answers["RejectHeldAction"] = installation.answers["ApproveHeldAction"] = decide
    assert "revoked registrations" in run(f"held-actions reject hld_1 -o {ORGANIZATION}").stdout
    would = run(f"held-actions approve hld_1 -o {ORGANIZATION} --dry-run").stdout
    assert would.startswith("This deletes 51 registrations for good, as they are revoked registrations")


SEEN = "--seen-after 2026-09-21T14:13:20Z --seen-before 2026-09-21T14:14:20Z"
MATCHING = (
    "--traffic 'dns.fqdn in $wiki' --identity 'identity.name == \"Eve\"'"
    " --device-posture 'any(device_posture.checks.passed[*] in {\"disk\"})'"
)
HOURS = (
    "--time-zone Europe/Berlin --schedule mon-wed,fri=08:00-12:00 --schedule Friday=13:00-17:00"
    " --schedule sat-mon=22:00-24:00"
)
WIKI = (
    "--allow group=staff --allow email=eve@example.com --session-duration 8h --identity-provider idp_1"
    " --identity-provider idp_2 --binding-cookie --no-device-session --description Pages"
)
DEFAULTS = "--no-binding-cookie --default-device-session --any-identity-provider"
CLIENT = "--ip 192.0.2.1 --country DE"
COMMANDS: list[tuple[str, Message]] = [
    (
        "organizations create Example --seat-limit 5 --default-action block",
        identity.CreateOrganizationRequest(
            organization=identity.Organization(
                display_name="Example", seat_limit=5, default_action=identity.DEFAULT_ACTION_BLOCK
            )
        ),
    ),
    (
        "organizations update --default-action allow --etag e1",
        identity.UpdateOrganizationRequest(
            organization_id=ORGANIZATION,
            organization=identity.Organization(default_action=identity.DEFAULT_ACTION_ALLOW, etag="e1"),
            update_mask=FieldMask(paths=["default_action"]),
        ),
    ),
    ("organizations show", identity.GetOrganizationRequest(organization_id=ORGANIZATION)),
    ("keys revoke key_1 --yes", identity.RevokeApiKeyRequest(organization_id=ORGANIZATION, api_key_id="key_1")),
    ("keys revoke key_1 --yes --installation", identity.RevokeApiKeyRequest(api_key_id="key_1")),
    (
        (
            "identity-providers add Sign-in --issuer https://idp.example --client-id a --client-id b"
            " --force-interaction --oidc-claim department --oidc-claim level --groups-claim realm_access.roles"
            " --allow-unverified-email --allow-private-addresses --jwks-host keys.example"
        ),
        identity.CreateIdentityProviderRequest(
            organization_id=ORGANIZATION,
            identity_provider=identity.IdentityProvider(
                display_name="Sign-in",
                issuer="https://idp.example",
                client_ids=["a", "b"],
                force_interaction=True,
                oidc_claims=["department", "level"],
                groups_claim="realm_access.roles",
                allow_unverified_email=True,
                allow_private_addresses=True,
                jwks_host="keys.example",
            ),
        ),
    ),
    (
        "identity-providers update idp_1 --name SSO --client-id c --no-force-interaction --no-oidc-claims --etag e1",
        identity.UpdateIdentityProviderRequest(
            organization_id=ORGANIZATION,
            identity_provider=identity.IdentityProvider(
                identity_provider_id="idp_1", display_name="SSO", client_ids=["c"], etag="e1"
            ),
            update_mask=FieldMask(paths=["display_name", "client_ids", "force_interaction", "oidc_claims"]),
        ),
    ),
    (
        (
            "identity-providers update idp_1 --groups-claim teams --allow-unverified-email --no-allow-private-addresses"
            " --no-jwks-host --etag e1"
        ),
        identity.UpdateIdentityProviderRequest(
            organization_id=ORGANIZATION,
            identity_provider=identity.IdentityProvider(
                identity_provider_id="idp_1", groups_claim="teams", allow_unverified_email=True, etag="e1"
            ),
            update_mask=FieldMask(
                paths=["groups_claim", "allow_unverified_email", "allow_private_addresses", "jwks_host"]
            ),
        ),
    ),
    (
        "identity-providers show idp_1",
        identity.GetIdentityProviderRequest(organization_id=ORGANIZATION, identity_provider_id="idp_1"),
    ),
    (
        "service-tokens show svt_1",
        identity.GetServiceTokenRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "enrollment-policies show enp_1",
        identity.GetEnrollmentPolicyRequest(organization_id=ORGANIZATION, enrollment_policy_id="enp_1"),
    ),
    (
        "enrollment-policies update enp_1 --name Staff --etag e1",
        identity.UpdateEnrollmentPolicyRequest(
            organization_id=ORGANIZATION,
            enrollment_policy=identity.EnrollmentPolicy(enrollment_policy_id="enp_1", display_name="Staff", etag="e1"),
            update_mask=FieldMask(paths=["display_name"]),
        ),
    ),
    (
        "organizations update --name Other --etag e1",
        identity.UpdateOrganizationRequest(
            organization_id=ORGANIZATION,
            organization=identity.Organization(display_name="Other", etag="e1"),
            update_mask=FieldMask(paths=["display_name"]),
        ),
    ),
    ("device enrollment-info", registry.GetEnrollmentInfoRequest(organization_id=ORGANIZATION)),
    (
        f"policies update {POLICY} --staleness open:2h --etag e1",
        session.UpdatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                policy_id=POLICY,
                etag="e1",
                staleness=session.Staleness(mode=session.STALENESS_MODE_OPEN_BOUNDED, max_open="2h"),
            ),
            update_mask=FieldMask(paths=["staleness"]),
        ),
    ),
    (
        f"policies delete {POLICY} -y --etag e1",
        session.DeletePolicyRequest(organization_id=ORGANIZATION, policy_id=POLICY, etag="e1"),
    ),
    (
        "identity-providers delete idp_1 -y",
        identity.DeleteIdentityProviderRequest(organization_id=ORGANIZATION, identity_provider_id="idp_1"),
    ),
    (
        "service-tokens create Robot --duration 720h",
        identity.CreateServiceTokenRequest(organization_id=ORGANIZATION, display_name="Robot", duration="720h"),
    ),
    (
        "service-tokens create Runner --expire-registrations-after 2h",
        identity.CreateServiceTokenRequest(
            organization_id=ORGANIZATION, display_name="Runner", expire_registrations_after="2h"
        ),
    ),
    (
        "service-tokens list --name Robot",
        identity.ListServiceTokensRequest(organization_id=ORGANIZATION, display_name="Robot", page_size=1000),
    ),
    (
        "service-tokens update svt_1 --name Builder --disable --etag e1",
        identity.UpdateServiceTokenRequest(
            organization_id=ORGANIZATION,
            service_token=identity.ServiceToken(
                service_token_id="svt_1", display_name="Builder", disabled=True, etag="e1"
            ),
            update_mask=FieldMask(paths=["display_name", "disabled"]),
        ),
    ),
    (
        "service-tokens update svt_1 --enable --etag e1",
        identity.UpdateServiceTokenRequest(
            organization_id=ORGANIZATION,
            service_token=identity.ServiceToken(service_token_id="svt_1", etag="e1"),
            update_mask=FieldMask(paths=["disabled"]),
        ),
    ),
    (
        "service-tokens update svt_1 --expire-registrations-after never --etag e1",
        identity.UpdateServiceTokenRequest(
            organization_id=ORGANIZATION,
            service_token=identity.ServiceToken(service_token_id="svt_1", etag="e1"),
            update_mask=FieldMask(paths=["expire_registrations_after"]),
        ),
    ),
    (
        "service-tokens rotate svt_1 --grace 24h --etag e1",
        identity.RotateServiceTokenRequest(
            organization_id=ORGANIZATION, service_token_id="svt_1", grace="24h", etag="e1"
        ),
    ),
    (
        "service-tokens rotate svt_1 --yes",
        identity.RotateServiceTokenRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "service-tokens refresh svt_1",
        identity.RefreshServiceTokenRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "service-tokens delete svt_1 -y",
        identity.DeleteServiceTokenRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "enrollment-policies delete enp_1 -y",
        identity.DeleteEnrollmentPolicyRequest(organization_id=ORGANIZATION, enrollment_policy_id="enp_1"),
    ),
    (
        "enrollment-policies test --email eve@example.com --group staff",
        identity.TestEnrollmentRequest(
            organization_id=ORGANIZATION,
            identity=identity.TestIdentity(email="eve@example.com", groups=["staff"]),
        ),
    ),
    (
        (
            "enrollment-policies test --oidc-claim level=7 --auth-method mfa --provider idp_1 --ip 192.0.2.7"
            " --country DE"
        ),
        identity.TestEnrollmentRequest(
            organization_id=ORGANIZATION,
            identity=identity.TestIdentity(oidc_claims=["level=7"], auth_methods=["mfa"], identity_provider_id="idp_1"),
            ip="192.0.2.7",
            country="DE",
        ),
    ),
    (
        "enrollment-policies update enp_1 --precedence 3 --etag e1 --dry-run",
        identity.UpdateEnrollmentPolicyRequest(
            organization_id=ORGANIZATION,
            enrollment_policy=identity.EnrollmentPolicy(enrollment_policy_id="enp_1", precedence=3, etag="e1"),
            update_mask=FieldMask(paths=["precedence"]),
            validate_only=True,
        ),
    ),
    (
        "enrollment-policies usage enp_1",
        identity.GetEnrollmentPolicyUsageRequest(organization_id=ORGANIZATION, enrollment_policy_id="enp_1"),
    ),
    (
        "enrollment-policies stranded enp_1",
        identity.ListStrandedRegistrationsRequest(
            organization_id=ORGANIZATION, enrollment_policy_id="enp_1", page_size=1000
        ),
    ),
    (
        "rule-groups create Staff --include rule-group-id=rgp_1 --include auth-method=mfa --require country=DE",
        identity.CreateRuleGroupRequest(
            organization_id=ORGANIZATION,
            rule_group=identity.RuleGroup(
                display_name="Staff",
                include=[
                    identity.EnrollmentRule(rule_group_id="rgp_1"),
                    identity.EnrollmentRule(auth_method="mfa"),
                ],
                require=[identity.EnrollmentRule(country="DE")],
            ),
        ),
    ),
    (
        (
            "profiles create Laptops --match 'os.name == \"mac\"' --precedence 20 --set allow_updates=true "
            "--set service_mode=proxy:40000 --set auto_connect=10m --set tunnel_protocol=masque "
            "--exclude 10.0.0.0/8 --exclude '*.example.com' --dry-run"
        ),
        registry.CreateDeviceProfileRequest(
            organization_id=ORGANIZATION,
            device_profile=registry.DeviceProfile(
                name="Laptops",
                match='os.name == "mac"',
                precedence=20,
                settings=registry.DeviceProfileSettings(
                    allow_updates=True,
                    service_mode=registry.ServiceMode(mode=registry.ServiceMode.MODE_PROXY, port=40_000),
                    auto_connect="10m",
                    tunnel_protocol=registry.TUNNEL_TYPE_MASQUE,
                    exclude=registry.Routes(
                        routes=[registry.Route(address="10.0.0.0/8"), registry.Route(host="*.example.com")]
                    ),
                ),
            ),
            validate_only=True,
        ),
    ),
    (
        "profiles show dpr_1",
        registry.GetDeviceProfileRequest(organization_id=ORGANIZATION, device_profile_id="dpr_1"),
    ),
    (
        "profiles list --limit 5",
        registry.ListDeviceProfilesRequest(organization_id=ORGANIZATION, page_size=5),
    ),
    (
        (
            "profiles update dpr_1 --precedence 30 --disable --set allowed_to_leave=false --include 2001:db8::/32 "
            "--reset lan_allow --etag e1"
        ),
        registry.UpdateDeviceProfileRequest(
            organization_id=ORGANIZATION,
            device_profile=registry.DeviceProfile(
                device_profile_id="dpr_1",
                precedence=30,
                enabled=False,
                settings=registry.DeviceProfileSettings(
                    allowed_to_leave=False, include=registry.Routes(routes=[registry.Route(address="2001:db8::/32")])
                ),
                etag="e1",
            ),
            update_mask=FieldMask(
                paths=[
                    *("enabled", "precedence", "settings.allowed_to_leave", "settings.include", "settings.lan_allow")
                ]
            ),
        ),
    ),
    (
        "profiles delete dpr_1 --etag e1 --yes",
        registry.DeleteDeviceProfileRequest(organization_id=ORGANIZATION, device_profile_id="dpr_1", etag="e1"),
    ),
    (
        "profiles match --email ada@example.com --group staff --platform linux --os-version 6.1 --network office",
        registry.MatchDeviceProfileRequest(
            organization_id=ORGANIZATION,
            test_subject=registry.ProfileSubject(
                email="ada@example.com",
                groups=["staff"],
                platform=registry.PLATFORM_LINUX,
                os_version="6.1",
                network="office",
            ),
        ),
    ),
    (
        f"profiles match {REGISTRATION}",
        registry.MatchDeviceProfileRequest(organization_id=ORGANIZATION, registration_id=REGISTRATION),
    ),
    (
        "rule-groups show rgp_1",
        identity.GetRuleGroupRequest(organization_id=ORGANIZATION, rule_group_id="rgp_1"),
    ),
    (
        "rule-groups list",
        identity.ListRuleGroupsRequest(organization_id=ORGANIZATION, page_size=1000),
    ),
    (
        "rule-groups update rgp_1 --name All --exclude ip-range=192.0.2.0/24 --no-require --etag e1",
        identity.UpdateRuleGroupRequest(
            organization_id=ORGANIZATION,
            rule_group=identity.RuleGroup(
                rule_group_id="rgp_1",
                display_name="All",
                exclude=[identity.EnrollmentRule(ip_range="192.0.2.0/24")],
                etag="e1",
            ),
            update_mask=FieldMask(paths=["display_name", "require", "exclude"]),
        ),
    ),
    (
        "rule-groups delete rgp_1 --yes",
        identity.DeleteRuleGroupRequest(organization_id=ORGANIZATION, rule_group_id="rgp_1"),
    ),
    (
        "enrollment-policies test --id-token signed",
        identity.TestEnrollmentRequest(organization_id=ORGANIZATION, credential=Credential(id_token="signed")),
    ),
    (
        "users list --email eve@example.com --seat inactive",
        identity.ListUsersRequest(
            organization_id=ORGANIZATION,
            email="eve@example.com",
            seat_status=identity.SEAT_STATUS_INACTIVE,
            page_size=1000,
        ),
    ),
    (f"users show {USER}", identity.GetUserRequest(organization_id=ORGANIZATION, user_id=USER)),
    (
        f"users revoke {USER} --registrations",
        identity.RevokeUserRequest(organization_id=ORGANIZATION, user_id=USER, revoke_registrations=True),
    ),
    ("users removal rmv_1", identity.GetRemovalRequest(organization_id=ORGANIZATION, removal_id="rmv_1")),
    ("seats", identity.GetSeatUsageRequest(organization_id=ORGANIZATION)),
    ("seats show", identity.GetSeatUsageRequest(organization_id=ORGANIZATION)),
    (
        "seats list --email ada@example.com --taken-by access --used-for gateway --active-before 2026-09-21T14:13:20Z",
        identity.ListSeatsRequest(
            organization_id=ORGANIZATION,
            email="ada@example.com",
            taken_by=identity.SEAT_EVENT_ACCESS,
            used_for=identity.SEAT_EVENT_GATEWAY,
            active_before=NOON,
            page_size=1000,
        ),
    ),
    (f"seats explain {USER}", identity.ExplainSeatRequest(organization_id=ORGANIZATION, user_id=USER)),
    (
        "seats expiring --expiration 2160h",
        identity.PreviewSeatExpirationRequest(organization_id=ORGANIZATION, seat_expiration="2160h", page_size=1000),
    ),
    (
        f"devices list --active-registrations exclude --platform chromeos {SEEN} --order-by name --desc",
        registry.ListDevicesRequest(
            organization_id=ORGANIZATION,
            active_registrations=registry.ACTIVE_REGISTRATIONS_EXCLUDE,
            platform=registry.PLATFORM_CHROMEOS,
            seen_after=NOON,
            seen_before=Timestamp(seconds=NOON.seconds + 60),
            order_by="claims.display_name desc",
            page_size=1000,
        ),
    ),
    (
        (
            f"devices list --search laptop --tag site:Ulm --tag floor:1 --last-seen-user {USER} --id dev_1 --id dev_2"
            " --device-profile dpr_1"
        ),
        registry.ListDevicesRequest(
            organization_id=ORGANIZATION,
            active_registrations=registry.ACTIVE_REGISTRATIONS_ONLY,
            search="laptop",
            tags=["site:Ulm", "floor:1"],
            last_seen_user_id=USER,
            device_ids=["dev_1", "dev_2"],
            device_profile_id="dpr_1",
            order_by="create_time",
            page_size=1000,
        ),
    ),
    (
        "devices list --last-seen-user ada@example.com",
        registry.ListDevicesRequest(
            organization_id=ORGANIZATION,
            active_registrations=registry.ACTIVE_REGISTRATIONS_ONLY,
            last_seen_user_email="ada@example.com",
            order_by="create_time",
            page_size=1000,
        ),
    ),
    ("devices revoke dev_1", registry.RevokeDeviceRequest(organization_id=ORGANIZATION, device_id="dev_1")),
    ("devices delete dev_1 -y", registry.DeleteDeviceRequest(organization_id=ORGANIZATION, device_id="dev_1")),
    (
        (
            f"registrations list --state all --user {USER} --device dev_1 --service-token svt_1 {SEEN} --desc"
            " --device-profile dpr_1"
        ),
        registry.ListRegistrationsRequest(
            organization_id=ORGANIZATION,
            state=registry.REGISTRATION_FILTER_ALL,
            user_ids=[USER],
            device_id="dev_1",
            service_token_id="svt_1",
            device_profile_id="dpr_1",
            seen_after=NOON,
            seen_before=Timestamp(seconds=NOON.seconds + 60),
            order_by="create_time desc",
            page_size=1000,
        ),
    ),
    (
        f"registrations list --user {USER} --user usr_2 --search 100.96 --id reg_1 --order-by id",
        registry.ListRegistrationsRequest(
            organization_id=ORGANIZATION,
            state=registry.REGISTRATION_FILTER_ACTIVE,
            user_ids=[USER, "usr_2"],
            search="100.96",
            registration_ids=["reg_1"],
            order_by="registration_id",
            page_size=1000,
        ),
    ),
    *(
        (
            f"devices list --order-by {order} --desc",
            registry.ListDevicesRequest(
                organization_id=ORGANIZATION,
                active_registrations=registry.ACTIVE_REGISTRATIONS_ONLY,
                order_by=f"{field} desc",
                page_size=1000,
            ),
        )
        for order, field in (
            ("active_registrations", "active_registrations"),
            ("last_seen_user", "last_seen_user.email"),
        )
    ),
    *(
        (
            f"registrations list --order-by {order}",
            registry.ListRegistrationsRequest(
                organization_id=ORGANIZATION,
                state=registry.REGISTRATION_FILTER_ACTIVE,
                order_by=field,
                page_size=1000,
            ),
        )
        for order, field in (("user_email", "user_email"), ("user_name", "user_display_name"))
    ),
    (
        "registrations show reg_1",
        registry.GetRegistrationRequest(organization_id=ORGANIZATION, registration_id="reg_1"),
    ),
    (
        "registrations unrevoke reg_1 reg_2",
        registry.UnrevokeRegistrationsRequest(organization_id=ORGANIZATION, registration_ids=["reg_1", "reg_2"]),
    ),
    (
        "registrations delete reg_1 -y",
        registry.DeleteRegistrationsRequest(organization_id=ORGANIZATION, registration_ids=["reg_1"]),
    ),
    (
        "subnets create Lab --network 10.1.0.0/24 --description x --default",
        ipam.CreateSubnetRequest(
            organization_id=ORGANIZATION,
            subnet=ipam.Subnet(display_name="Lab", network="10.1.0.0/24", description="x", is_default=True),
        ),
    ),
    ("subnets show sub_1", ipam.GetSubnetRequest(organization_id=ORGANIZATION, subnet_id="sub_1")),
    ("subnets list --limit 3", ipam.ListSubnetsRequest(organization_id=ORGANIZATION, page_size=3)),
    (
        "subnets update sub_1 --name New --default --etag e1",
        ipam.UpdateSubnetRequest(
            organization_id=ORGANIZATION,
            subnet=ipam.Subnet(subnet_id="sub_1", display_name="New", is_default=True, etag="e1"),
            update_mask=FieldMask(paths=["display_name", "is_default"]),
        ),
    ),
    (
        "subnets delete sub_1 --yes --etag e1",
        ipam.DeleteSubnetRequest(organization_id=ORGANIZATION, subnet_id="sub_1", etag="e1"),
    ),
    (
        "ip-profiles create Contractors --match x --precedence 10 --subnet sub_1 --description y --disabled",
        ipam.CreateIpProfileRequest(
            organization_id=ORGANIZATION,
            ip_profile=ipam.IpProfile(
                display_name="Contractors", match="x", precedence=10, subnet_id="sub_1", description="y"
            ),
        ),
    ),
    ("ip-profiles show ipp_1", ipam.GetIpProfileRequest(organization_id=ORGANIZATION, ip_profile_id="ipp_1")),
    ("ip-profiles list", ipam.ListIpProfilesRequest(organization_id=ORGANIZATION, page_size=1000)),
    (
        "ip-profiles update ipp_1 --match y --precedence 7 --subnet sub_2 --disabled --etag e1",
        ipam.UpdateIpProfileRequest(
            organization_id=ORGANIZATION,
            ip_profile=ipam.IpProfile(ip_profile_id="ipp_1", match="y", precedence=7, subnet_id="sub_2", etag="e1"),
            update_mask=FieldMask(paths=["match", "precedence", "subnet_id", "enabled"]),
        ),
    ),
    (
        "ip-profiles delete ipp_1 --yes",
        ipam.DeleteIpProfileRequest(organization_id=ORGANIZATION, ip_profile_id="ipp_1"),
    ),
    (
        "ip-profiles match --email ada@example.com --name Ada --group ops --group berlin --claim department=research",
        ipam.MatchIpProfileRequest(
            organization_id=ORGANIZATION,
            identity=identity.HolderIdentity(
                email="ada@example.com",
                display_name="Ada",
                groups=["ops", "berlin"],
                oidc_claims=["department=research"],
            ),
        ),
    ),
    (
        "ip-profiles match --service-token svt_1",
        ipam.MatchIpProfileRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "addresses show 100.96.0.1",
        ipam.LookupAddressRequest(organization_id=ORGANIZATION, address="100.96.0.1"),
    ),
    (
        "addresses show fd00::1 --at 2026-09-21T14:13:20+0000",
        ipam.LookupAddressRequest(organization_id=ORGANIZATION, address="fd00::1", time=NOON),
    ),
    (
        "addresses history 100.96.4.0/24 --at 2026-09-21T14:13:20+0000 --limit 7",
        ipam.ListAddressHistoryRequest(organization_id=ORGANIZATION, network="100.96.4.0/24", time=NOON, page_size=7),
    ),
    (
        "addresses list --state quarantined --subnet sub_1 --user usr_1 --device dev_1 --limit 7",
        ipam.ListAddressesRequest(
            organization_id=ORGANIZATION,
            state=ipam.ADDRESS_STATE_QUARANTINED,
            subnet_id="sub_1",
            user_id="usr_1",
            device_id="dev_1",
            page_size=7,
        ),
    ),
    (
        "addresses list --state revoked --service-token svt_1 --limit 7",
        ipam.ListAddressesRequest(
            organization_id=ORGANIZATION,
            state=ipam.ADDRESS_STATE_REVOKED,
            service_token_id="svt_1",
            page_size=7,
        ),
    ),
    (
        "addresses map --subnet sub_1 --json",
        ipam.GetAddressMapRequest(organization_id=ORGANIZATION, subnet_id="sub_1", block_count=1024),
    ),
    (
        "addresses pin 100.96.0.9 --user usr_1 --device dev_1 --description printer",
        ipam.PinAddressRequest(
            organization_id=ORGANIZATION,
            network="100.96.0.9",
            user_id="usr_1",
            device_id="dev_1",
            description="printer",
        ),
    ),
    (
        "addresses pin 100.96.0.9 --service-token svt_1 --device dev_1",
        ipam.PinAddressRequest(
            organization_id=ORGANIZATION, network="100.96.0.9", service_token_id="svt_1", device_id="dev_1"
        ),
    ),
    ("addresses unpin pin_1", ipam.UnpinAddressRequest(organization_id=ORGANIZATION, pin_id="pin_1")),
    ("addresses pins --limit 7", ipam.ListPinsRequest(organization_id=ORGANIZATION, page_size=7)),
    (f"policies show {POLICY}", session.GetPolicyRequest(organization_id=ORGANIZATION, policy_id=POLICY)),
    (
        "policies create Wiki --filter http --timeout 8h --description internal --disabled",
        session.CreatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                display_name="Wiki",
                description="internal",
                filter=session.POLICY_FILTER_HTTP,
                action=session.POLICY_ACTION_ALLOW,
                check_session=session.CheckSession(enforce=True, duration="8h"),
            ),
        ),
    ),
    (
        f"policies create Pages --filter dns --precedence 7 {MATCHING} {HOURS} --expire-time 2026-09-21T14:13:20Z",
        session.CreatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                display_name="Pages",
                enabled=True,
                filter=session.POLICY_FILTER_DNS,
                action=session.POLICY_ACTION_ALLOW,
                precedence=7,
                traffic="dns.fqdn in $wiki",
                identity='identity.name == "Eve"',
                device_posture='any(device_posture.checks.passed[*] in {"disk"})',
                schedule=session.Schedule(
                    time_zone="Europe/Berlin",
                    monday="08:00-12:00,22:00-24:00",
                    tuesday="08:00-12:00",
                    wednesday="08:00-12:00",
                    friday="08:00-12:00,13:00-17:00",
                    saturday="22:00-24:00",
                    sunday="22:00-24:00",
                ),
                expire_time=NOON,
            ),
        ),
    ),
    (
        f"policies update {POLICY} --precedence 9 --no-traffic --no-schedule --identity 'identity.name == 1' --etag e1",
        session.UpdatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(policy_id=POLICY, etag="e1", precedence=9, identity="identity.name == 1"),
            update_mask=FieldMask(paths=["precedence", "identity", "traffic", "schedule"]),
        ),
    ),
    (
        "policies reorder pol_2 pol_1",
        session.ReorderPoliciesRequest(organization_id=ORGANIZATION, policy_ids=["pol_2", "pol_1"]),
    ),
    (
        "lists create wiki 10.0.0.1 10.0.0.0/8 --type ip --description Pages",
        session.CreateListRequest(
            organization_id=ORGANIZATION,
            list=session.List(
                name="wiki", description="Pages", type=session.LIST_TYPE_IP, values=["10.0.0.1", "10.0.0.0/8"]
            ),
        ),
    ),
    ("lists show lst_1", session.GetListRequest(organization_id=ORGANIZATION, list_id="lst_1")),
    (
        "lists update lst_1 --name wiki --etag e1",
        session.UpdateListRequest(
            organization_id=ORGANIZATION,
            list=session.List(list_id="lst_1", name="wiki", etag="e1"),
            update_mask=FieldMask(paths=["name"]),
        ),
    ),
    (
        "lists update lst_1 --replace 443 8000..8080 --etag e1",
        session.UpdateListRequest(
            organization_id=ORGANIZATION,
            list=session.List(list_id="lst_1", values=["443", "8000..8080"], etag="e1"),
            update_mask=FieldMask(paths=["values"]),
        ),
    ),
    (
        "lists delete lst_1 -y --etag e1",
        session.DeleteListRequest(organization_id=ORGANIZATION, list_id="lst_1", etag="e1"),
    ),
    (
        f"applications create Wiki {WIKI}",
        session.CreateApplicationRequest(
            organization_id=ORGANIZATION,
            application=session.Application(
                display_name="Wiki",
                description="Pages",
                session_duration="8h",
                policies=[
                    session.ApplicationPolicy(
                        display_name="Allow",
                        decision=session.APPLICATION_DECISION_ALLOW,
                        include=[
                            session.ApplicationRule(group="staff"),
                            session.ApplicationRule(email="eve@example.com"),
                        ],
                    )
                ],
                identity_provider_ids=["idp_1", "idp_2"],
                binding_cookie=True,
                device_session=False,
            ),
        ),
    ),
    (
        "applications create Wiki",
        session.CreateApplicationRequest(
            organization_id=ORGANIZATION, application=session.Application(display_name="Wiki")
        ),
    ),
    ("applications show app_1", session.GetApplicationRequest(organization_id=ORGANIZATION, application_id="app_1")),
    (
        f"applications update app_1 --session-duration 0s {DEFAULTS} --etag e1",
        session.UpdateApplicationRequest(
            organization_id=ORGANIZATION,
            application=session.Application(application_id="app_1", session_duration="0s", etag="e1"),
            update_mask=FieldMask(
                paths=["session_duration", "binding_cookie", "identity_provider_ids", "device_session"]
            ),
        ),
    ),
    (
        "applications delete app_1 -y --etag e1",
        session.DeleteApplicationRequest(organization_id=ORGANIZATION, application_id="app_1", etag="e1"),
    ),
    (
        f"applications log-in app_1 --registration {REGISTRATION} --id-token signed --challenge 1.mac {CLIENT}",
        session.LogInRequest(
            organization_id=ORGANIZATION,
            application_id="app_1",
            registration_id=REGISTRATION,
            credential=Credential(id_token="signed"),
            challenge="1.mac",
            client=session.ClientFacts(ip="192.0.2.1", country="DE"),
        ),
    ),
    ("device-sessions show", session.GetDeviceSessionSettingsRequest(organization_id=ORGANIZATION)),
    (
        "device-sessions update --session-duration 24h --apply-by-default --etag e1",
        session.UpdateDeviceSessionSettingsRequest(
            organization_id=ORGANIZATION,
            settings=session.DeviceSessionSettings(session_duration="24h", apply_by_default=True, etag="e1"),
            update_mask=FieldMask(paths=["session_duration", "apply_by_default"]),
        ),
    ),
    (
        "device-sessions update --no-session-duration --no-apply-by-default --etag e1",
        session.UpdateDeviceSessionSettingsRequest(
            organization_id=ORGANIZATION,
            settings=session.DeviceSessionSettings(etag="e1"),
            update_mask=FieldMask(paths=["apply_by_default", "session_duration"]),
        ),
    ),
    (
        "signing-keys rotate --revoke-previous --yes",
        session.RotateSigningKeyRequest(organization_id=ORGANIZATION, revoke_previous=True),
    ),
    (
        f"checks application app_1 --device {REGISTRATION} --session-token s --binding b --country DE",
        session.CheckApplicationRequest(
            organization_id=ORGANIZATION,
            application_id="app_1",
            registration_id=REGISTRATION,
            session_token="s",
            binding="b",
            client=session.ClientFacts(country="DE"),
        ),
    ),
    (
        "checks application app_1 --device 100.96.0.1",
        session.CheckApplicationRequest(
            organization_id=ORGANIZATION,
            application_id="app_1",
            address="100.96.0.1",
            client=session.ClientFacts(),
        ),
    ),
    (
        f"checks traffic {REGISTRATION} --kind request net.protocol=a=b app.ids[*]=17 app.statuses=a app.statuses=b",
        session.CheckTrafficRequest(
            organization_id=ORGANIZATION,
            registration_id=REGISTRATION,
            kind=session.TRAFFIC_KIND_REQUEST,
            traffic=session.Traffic(
                fields={"net.protocol": "a=b"},
                lists={
                    "app.ids": session.TrafficValues(values=["17"]),
                    "app.statuses": session.TrafficValues(values=["a", "b"]),
                },
            ),
        ),
    ),
    (
        "checks traffic 100.96.0.1 --kind connection",
        session.CheckTrafficRequest(
            organization_id=ORGANIZATION,
            address="100.96.0.1",
            kind=session.TRAFFIC_KIND_CONNECTION,
            traffic=session.Traffic(),
        ),
    ),
    (
        "policies create Open --action block",
        session.CreatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                display_name="Open",
                enabled=True,
                filter=session.POLICY_FILTER_L4,
                action=session.POLICY_ACTION_BLOCK,
            ),
        ),
    ),
    (
        f"sessions show {REGISTRATION}",
        session.GetSessionRequest(organization_id=ORGANIZATION, registration_id=REGISTRATION),
    ),
    (
        f"sessions revoke {REGISTRATION} --dry-run",
        session.RevokeSessionsRequest(
            organization_id=ORGANIZATION, registration_ids=[REGISTRATION], validate_only=True
        ),
    ),
    (
        f"sessions refresh {REGISTRATION} --id-token signed --challenge 1.mac",
        session.RefreshIdentityRequest(
            organization_id=ORGANIZATION,
            registration_id=REGISTRATION,
            credential=Credential(id_token="signed"),
            challenge="1.mac",
        ),
    ),
    (
        f"sessions reauthenticate {REGISTRATION} --id-token signed --challenge 1.mac",
        session.ReauthenticateRequest(
            organization_id=ORGANIZATION,
            registration_id=REGISTRATION,
            credential=Credential(id_token="signed"),
            challenge="1.mac",
        ),
    ),
]


@pytest.mark.parametrize(("line", "meant"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_command_asks_for_what_it_says(run: Run, installation: ScriptedServer, line: str, meant: Message) -> None:
    name = meant.DESCRIPTOR.full_name.removesuffix("Request")
    method = name.rpartition(".")[2]
    response = descriptor_pool.Default().FindMessageTypeByName(f"{name}Response")
    installation.answers[method] = GetMessageClass(response)()
    run(f"{line} -o {ORGANIZATION}")
    (sent,) = installation.requests(method)
    if "request_id" in meant.DESCRIPTOR.fields_by_name:
        assert sent.request_id
        sent.ClearField("request_id")
    assert sent == meant
