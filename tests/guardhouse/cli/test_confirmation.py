"""What cannot be undone says first what it would do, and asks."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from guardhouse.common.v1 import access_pb2, errors_pb2, results_pb2
from guardhouse.errors import AccessDenied
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import POLICY, USER, Run, commands, words
from tests.guardhouse.scripted import ScriptedServer

EXAMPLE = identity.Organization(display_name="Example")
DELETED = session.DeletePolicyResponse(policy=session.Policy(display_name="wiki", etag="then"))
REMOVED = identity.RemoveUsersResponse(removal=identity.Removal(removal_id="rmv_1", users=3, seats_freed=2))


def sent(installation: ScriptedServer, method: str) -> list[tuple[bool, Any]]:
    """The requests, and whether each was a rehearsal."""
    return [(request.validate_only, request) for request in installation.requests(method)]


def test_nothing_is_deleted_unasked(run: Run, installation: ScriptedServer) -> None:
    installation.answers["DeletePolicy"] = DELETED
    assert "pass --yes" in words(run(f"policies delete {POLICY}", exit_code=2).stderr)
    assert not installation.requests("DeletePolicy")
    assert run(f"policies delete {POLICY} --yes").stdout == f"{POLICY} deleted\n"
    ((rehearsal, request),) = sent(installation, "DeletePolicy")
    assert (rehearsal, request.policy_id) == (False, POLICY)


@pytest.mark.usefixtures("somebody_looks")
def test_whoever_can_be_asked_is_told_what_would_happen(run: Run, installation: ScriptedServer) -> None:
    installation.answers["DeletePolicy"] = DELETED
    refused = run(f"policies delete {POLICY}", exit_code=1, stdin="n\n")
    assert "This deletes 'wiki': checks that name it are refused from then on. Continue? [y/N]" in refused.stderr
    assert [rehearsal for rehearsal, _ in sent(installation, "DeletePolicy")] == [True]


@pytest.mark.usefixtures("somebody_looks")
def test_what_was_shown_is_what_is_deleted(run: Run, installation: ScriptedServer) -> None:
    """Whatever changes while somebody thinks about it makes the etag another one."""
    installation.answers["DeletePolicy"] = DELETED
    run(f"policies delete {POLICY}", stdin="y\n")
    run(f"policies delete {POLICY} --etag mine", stdin="y\n")
    assert [(rehearsal, request.etag) for rehearsal, request in sent(installation, "DeletePolicy")] == [
        (True, ""),
        (False, "then"),
        (True, "mine"),
        (False, "mine"),
    ]
    assert len({request.request_id for _, request in sent(installation, "DeletePolicy")}) == 4


DESTROYING = {"delete", "remove", "leave", "offboard", "erase", "approve"}
ROTATIONS = {"signing-keys rotate", "service-tokens rotate", "scim rotate"}
REHEARSED = {"devices tag", "enrollment-policies update", "organizations update", "profiles create", "profiles update"}
"""Changes that say whom they would leave behind, or what they would leave without effect."""


def test_every_command_that_destroys_can_be_told_yes() -> None:
    for name, command in commands():
        verb = name.split()[-1]
        destroys = verb in DESTROYING or name in ROTATIONS | {"keys revoke"}
        options = {parameter.name for parameter in command.params}
        assert destroys == ("yes" in options), name
        # These have no rehearsal in the contract.
        reversible = verb in ("revoke", "unrevoke", "set-timeout", "import") or name in REHEARSED
        assert (destroys or reversible) == ("dry_run" in options) or verb in ("leave", "rotate"), name


def registrations(count: int, *missing: str) -> list[registry.RegistrationResult]:
    reason = errors_pb2.ERROR_REASON_REGISTRATION_NOT_FOUND
    found = [
        registry.RegistrationResult(registration_id=f"reg_{n}", registration=registry.Registration())
        for n in range(count)
    ]
    error = results_pb2.ItemError(reason=reason, message="no such registration")
    return [*found, *(registry.RegistrationResult(registration_id=one, error=error) for one in missing)]


REHEARSALS: list[tuple[str, Message, str]] = [
    ("policies delete X", DELETED, "This deletes 'wiki': checks that name it are refused from then on."),
    (
        "keys revoke X",
        identity.RevokeApiKeyResponse(api_key=identity.ApiKey(display_name="Gateway", role=access_pb2.ROLE_GATEWAY)),
        "This revokes 'Gateway', a key with the role gateway, for good.",
    ),
    (
        "identity-providers delete X",
        identity.DeleteIdentityProviderResponse(
            identity_provider=identity.IdentityProvider(display_name="SSO"), users=1, registrations=3
        ),
        "This refuses the tokens of 'SSO': 1 user cannot sign in again. Registrations of theirs stay: 3.",
    ),
    (
        "service-tokens delete X",
        identity.DeleteServiceTokenResponse(service_token=identity.ServiceToken(display_name="Robot"), registrations=2),
        "This deletes 'Robot' for good. Registrations made with it stay, and cannot re-authenticate: 2.",
    ),
    (
        "enrollment-policies delete X",
        identity.DeleteEnrollmentPolicyResponse(
            enrollment_policy=identity.EnrollmentPolicy(display_name="Staff"), registrations=1
        ),
        "This deletes 'Staff'. Registrations that it admitted stay: 1.",
    ),
    (
        "rule-groups delete X",
        identity.DeleteRuleGroupResponse(rule_group=identity.RuleGroup(display_name="Staff")),
        "This deletes 'Staff', which no policy names.",
    ),
    (
        "subnets delete X",
        ipam.DeleteSubnetResponse(
            subnet=ipam.Subnet(
                display_name="Lab", network="10.1.0.0/24", capacity=ipam.SubnetCapacity(total=254, free=254)
            )
        ),
        "This deletes 'Lab', 10.1.0.0/24 with 254 addresses.",
    ),
    (
        "ip-profiles delete X",
        ipam.DeleteIpProfileResponse(ip_profile=ipam.IpProfile(display_name="Contractors")),
        "This deletes 'Contractors'; addresses that it gave stay as they are.",
    ),
    (
        "applications delete X",
        session.DeleteApplicationResponse(application=session.Application(display_name="Wiki")),
        "This deletes 'Wiki': nobody is let in to it from then on.",
    ),
    (
        "users remove X",
        identity.RemoveUsersResponse(removal=identity.Removal(users=1, seats_freed=1, registrations=2)),
        "This removes 1 user, frees 1 seat and deletes 2 registrations with their addresses for good.",
    ),
    (
        "users offboard X",
        identity.OffboardUserResponse(removal=identity.Removal(users=1, seats_freed=1, registrations=2)),
        "This blocks the person, frees 1 seat and deletes 2 registrations with their addresses for good.",
    ),
    (
        "users erase X",
        identity.EraseUserResponse(user=identity.User(user_id="usr_1")),
        "This erases the name, address, groups and claims of usr_1 for good.",
    ),
    (
        "held-actions approve X",
        identity.ApproveHeldActionResponse(
            held_action=identity.HeldAction(source="seat expiration", effect=identity.HELD_EFFECT_REMOVE, users=60)
        ),
        "This removes 60 users, as seat expiration asked",
    ),
    (
        "users revoke X --registrations",
        identity.RevokeUserResponse(registrations=2),
        "This ends the sessions of 2 registrations until the user signs in again, and revokes the registrations.",
    ),
    (
        "devices revoke X",
        registry.RevokeDeviceResponse(registrations_revoked=2, addresses_held=4),
        "This revokes 2 registrations. Addresses that stay held: 4. Deleting the registrations would free them.",
    ),
    (
        "devices delete X",
        registry.DeleteDeviceResponse(registrations_deleted=1, addresses_released=2, users=1),
        "This deletes the device with 1 registration for good and releases 2 addresses. The seats of 1 user stay.",
    ),
    (
        "registrations delete reg_0 reg_1 reg_2 reg_9",
        registry.DeleteRegistrationsResponse(results=registrations(3, "reg_9"), addresses_released=6),
        "This deletes 3 registrations for good and releases 6 addresses. 1 of those that are named cannot be deleted.",
    ),
    (
        "registrations revoke reg_0",
        registry.RevokeRegistrationsResponse(results=registrations(1)),
        "reg_0 would be revoked",
    ),
    (
        "registrations unrevoke reg_0",
        registry.UnrevokeRegistrationsResponse(results=registrations(1)),
        "reg_0 would be active again",
    ),
]


@pytest.mark.parametrize(("line", "response", "said"), REHEARSALS, ids=[line for line, _, _ in REHEARSALS])
def test_a_dry_run_says_what_would_happen_and_does_nothing(
    run: Run, installation: ScriptedServer, line: str, response: Message, said: str
) -> None:
    method = type(response).__name__.removesuffix("Response")
    installation.answers[method] = response
    failed = 1 if "reg_9" in line else 0
    assert said in run(f"{line} --dry-run", exit_code=failed).output
    assert json.loads(run(f"{line} --validate-only --json", exit_code=failed).stdout) is not None
    assert [rehearsal for rehearsal, _ in sent(installation, method)] == [True, True]


@pytest.mark.usefixtures("somebody_looks")
def test_registrations_are_deleted_after_a_yes(run: Run, installation: ScriptedServer) -> None:
    installation.answers["DeleteRegistrations"] = registry.DeleteRegistrationsResponse(
        results=registrations(3), addresses_released=6
    )
    said = run("registrations delete reg_0 reg_1 reg_2", stdin="y\n")
    assert "This deletes 3 registrations for good and releases 6 addresses. Continue?" in said.stderr
    assert said.stdout.splitlines()[-1] == "reg_2 deleted"
    assert [rehearsal for rehearsal, _ in sent(installation, "DeleteRegistrations")] == [True, False]


@pytest.mark.usefixtures("somebody_looks")
def test_keys_are_not_withdrawn_without_a_word(run: Run, installation: ScriptedServer) -> None:
    installation.answers["RotateSigningKey"] = session.RotateSigningKeyResponse()
    refused = run("signing-keys rotate --revoke-previous", exit_code=1, stdin="n\n")
    assert "tokens that they signed are good nowhere from then on. Continue?" in refused.stderr
    assert not installation.requests("RotateSigningKey")
    run("signing-keys rotate --revoke-previous", stdin="y\n")
    run("signing-keys rotate")
    assert [request.revoke_previous for request in installation.requests("RotateSigningKey")] == [True, False]


@pytest.mark.usefixtures("somebody_looks")
def test_a_secret_in_use_is_not_refused_without_a_word(run: Run, installation: ScriptedServer) -> None:
    """Decision 10: there is no grace period unless one is asked for."""
    installation.answers["RotateServiceToken"] = identity.RotateServiceTokenResponse(client_secret="s3cret")
    refused = run("service-tokens rotate svt_1", exit_code=1, stdin="n\n")
    assert "This refuses the secret that is in use now, at once" in refused.stderr
    assert not installation.requests("RotateServiceToken")
    said = run("service-tokens rotate svt_1", stdin="y\n")
    assert "s3cret" in said.stdout
    assert "not shown again" in said.stderr
    run("service-tokens rotate svt_1 --grace 24h")
    assert [request.grace for request in installation.requests("RotateServiceToken")] == ["", "24h"]


def test_everybody_is_not_removed_without_a_word(run: Run, installation: ScriptedServer) -> None:
    installation.answers["RemoveUsers"] = REMOVED
    assert "pass --yes" in words(run("users remove --all", exit_code=2).stderr)
    assert not installation.requests("RemoveUsers")


@pytest.mark.usefixtures("somebody_looks")
def test_everybody_is_removed_by_the_organizations_name(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetOrganization"] = identity.GetOrganizationResponse(organization=EXAMPLE)
    installation.answers["RemoveUsers"] = REMOVED
    wrong = run("users remove --all --no-wait", exit_code=1, stdin="yes\n")
    assert "every user of Example. Type its name" in wrong.stderr
    assert "nothing was removed" in wrong.stderr
    assert not installation.requests("RemoveUsers")
    run("users remove --all --no-wait", exit_code=1, stdin="Example\nn\n")
    run("users remove --all --no-wait", stdin="Example\ny\n")
    assert [rehearsal for rehearsal, _ in sent(installation, "RemoveUsers")] == [True, True, False]


def test_a_batch_says_what_became_of_each(run: Run, installation: ScriptedServer) -> None:
    installation.answers["RevokeRegistrations"] = registry.RevokeRegistrationsResponse(
        results=registrations(1, "reg_2"), addresses_held=2
    )
    result = run("registrations revoke reg_0 reg_2", exit_code=1)
    assert result.stdout == "reg_0 revoked\n"
    assert "Addresses that stay held: 2." in result.stderr
    assert "error: reg_2: no such registration [REGISTRATION_NOT_FOUND]\n" in result.stderr
    assert len(json.loads(run("registrations revoke reg_0 reg_2 --json", exit_code=1).stdout)["results"]) == 2


def test_more_than_a_call_may_have_go_in_several(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bar for whoever looks, and nothing of it for a pipe."""

    def delete(request: registry.DeleteRegistrationsRequest) -> registry.DeleteRegistrationsResponse:
        results = [
            registry.RegistrationResult(registration_id=one, registration=registry.Registration())
            for one in request.registration_ids
        ]
        return registry.DeleteRegistrationsResponse(results=results, addresses_released=2 * len(results))

    installation.answers["DeleteRegistrations"] = delete
    ids = "\n".join(f"reg_{n}" for n in range(2100))
    result = run("registrations delete - --yes --json", stdin=ids)
    shown = json.loads(result.stdout)
    assert result.stderr == ""
    assert [result["registration_id"] for result in shown["results"]] == ids.split()
    assert shown["addresses_released"] == 4200
    requests = installation.requests("DeleteRegistrations")
    assert [len(request.registration_ids) for request in requests] == [1000, 1000, 100]
    assert len({request.request_id for request in requests}) == 3
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "2100/2100" in run("registrations delete - --yes", stdin=ids).stderr


def test_a_batch_that_breaks_off_says_how_far_it_came(run: Run, installation: ScriptedServer) -> None:
    done = registry.RevokeRegistrationsResponse(results=registrations(1000))
    installation.answers["RevokeRegistrations"] = [done, AccessDenied("the key was revoked")]
    said = run("registrations revoke -", exit_code=1, stdin=" ".join(f"reg_{n}" for n in range(1500))).stderr
    assert "1000 of 1500 were done" in said
    assert "ACCESS_DENIED" in said


def test_a_removal_is_followed_until_it_is_done(run: Run, installation: ScriptedServer) -> None:
    removal = identity.Removal(removal_id="rmv_1", users=1, seats_freed=1, registrations=2)
    gone = identity.Removal(
        removal_id="rmv_1", users=1, registrations=2, registrations_deleted=2, addresses_released=2, done=True
    )
    installation.answers["RemoveUsers"] = identity.RemoveUsersResponse(removal=removal)
    installation.answers["GetRemoval"] = [
        identity.GetRemovalResponse(removal=removal),
        identity.GetRemovalResponse(removal=gone),
    ]
    installation.answers["ListGateways"] = registry.ListGatewaysResponse()
    result = run(f"users remove {USER} --yes --json")
    assert json.loads(result.stdout)["removal"]["done"] is True
    assert result.stderr == "Follow it with: guardhouse users removal rmv_1\n"
    assert list(installation.requests("RemoveUsers")[0].user_ids) == [USER]
    assert [call.method for call in installation.calls][-3:] == ["GetRemoval", "GetRemoval", "ListGateways"]
    without = run("users remove --all --no-wait --yes")
    assert installation.requests("RemoveUsers")[1].all
    assert len(installation.requests("ListGateways")) == 1
    assert "guardhouse users removal rmv_1" in without.stderr
    installation.answers["GetRemoval"] = AccessDenied("the key was revoked")
    interrupted = run(f"users remove {USER} --yes", exit_code=1)
    assert interrupted.stderr.startswith("Follow it with: guardhouse users removal rmv_1\n")
    run("users remove --yes", exit_code=2)
    run(f"users remove {USER} --all --yes", exit_code=2)
