"""An organization that is changed and looked at through the clients of any release."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from demo.issuer import Issuer, Person
from tests.upgrade.releases import Caller

PEOPLE = [Person(f"{name}@example.com", name) for name in ("alice", "bob", "carol", "dave", "erin")]
# What an administrator can see, and whether it takes another argument to see all of it.
VIEWS: dict[str, dict[str, Any]] = {
    "organizations.GetOrganization": {},
    "api_keys.ListApiKeys": {},
    "identity_providers.ListIdentityProviders": {},
    "service_tokens.ListServiceTokens": {},
    "enrollment_policies.ListEnrollmentPolicies": {},
    "users.ListUsers": {},
    "seats.GetSeatUsage": {},
    "registrations.ListRegistrations": {"state": "REGISTRATION_FILTER_ALL"},
    "devices.ListDevices": {"active_registrations": "ACTIVE_REGISTRATIONS_INCLUDE"},
    "addresses.ListAddresses": {},
    "policies.ListPolicies": {},
}
SECRETS = ("secret", "client_secret", "token")


@dataclass(frozen=True, slots=True)
class Told:
    """A change: what was asked, and what was answered."""

    method: str
    request: dict[str, Any]
    answer: dict[str, Any]


@dataclass
class Story:
    """One organization, and every change that was made to it."""

    issuer: Issuer
    organization_id: str = ""
    changes: list[Told] = field(default_factory=list)

    # Changing

    def change(self, call: Caller, method: str, **request: Any) -> dict[str, Any]:
        """Makes a change that can be repeated."""
        request = {"request_id": uuid.uuid4().hex, **request}
        if self.organization_id:
            request["organization_id"] = self.organization_id
        answer = call(method, **request)
        self.changes.append(Told(method, request, answer))
        return answer

    def found(self, call: Caller) -> None:
        """An organization with an identity provider, and policies for people and machines."""
        organization = {"display_name": "Example", "seat_limit": 5}
        made = self.change(call, "organizations.CreateOrganization", organization=organization)
        self.organization_id = made["organization"]["organization_id"]
        provider = {"display_name": "SSO", "issuer": self.issuer.url, "client_ids": [self.issuer.client_id]}
        self.change(call, "identity_providers.CreateIdentityProvider", identity_provider=provider)
        for precedence, decision, rule in (
            (10, "ENROLLMENT_DECISION_ALLOW", {"email_domain": "example.com"}),
            (20, "ENROLLMENT_DECISION_SERVICE_AUTH", {"any_valid_service_token": {}}),
        ):
            policy = {"display_name": decision, "decision": decision, "precedence": precedence, "include": [rule]}
            self.change(call, "enrollment_policies.CreateEnrollmentPolicy", enrollment_policy=policy)

    def policy(self, call: Caller, duration: str = "", **more: Any) -> str:
        """A gateway policy, with a limit on the age of sessions or without one."""
        policy: dict[str, Any] = {
            "display_name": duration or "unlimited",
            "enabled": True,
            "filter": "POLICY_FILTER_HTTP",
            "action": "POLICY_ACTION_ALLOW",
            **more,
        }
        if duration:
            policy["check_session"] = {"enforce": True, "duration": duration}
        return str(self.change(call, "policies.CreatePolicy", policy=policy)["policy"]["policy_id"])

    def enroll(self, call: Caller, name: str, machine: str) -> dict[str, Any]:
        """The answer to a person's enrollment."""
        return self.register(call, {"id_token": self.issuer.sign_in(f"{name}@example.com")}, machine)

    def register(self, call: Caller, credential: dict[str, Any], machine: str) -> dict[str, Any]:
        request = call("prepare", organization_id=self.organization_id, credential=credential, machine=machine)
        return self.change(call, "enrollment.Register", **request)

    def each(self, call: Caller, what: str, *registration_ids: str) -> dict[str, Any]:
        """Revokes, unrevokes or deletes registrations."""
        answer = self.change(call, f"registrations.{what}Registrations", registration_ids=registration_ids)
        assert not any("error" in result for result in answer["results"]), answer
        return answer

    # Looking

    @property
    def tokens(self) -> list[str]:
        """The newest revision tokens, as many as a call takes."""
        names = ("revision_token", "identity_revision_token")
        return [told.answer[name] for told in self.changes for name in names if name in told.answer][-16:]

    def check(self, call: Caller, registration_id: str, policy_id: str, at_least: list[str], key: str = "") -> str:
        """The reason of a decision."""
        answer = call(
            "checks.CheckSession",
            key,
            organization_id=self.organization_id,
            registration_id=registration_id,
            policy_id=policy_id,
            at_least=at_least,
        )
        return str(answer["answer"]["reason"]).removeprefix("DECISION_REASON_")

    def seen(self, call: Caller) -> dict[str, dict[str, Any]]:
        """All of it, at least as new as the newest change."""
        scope: dict[str, Any] = {"organization_id": self.organization_id, "at_least": self.tokens}
        return {method: call(method, **scope, **more) for method, more in VIEWS.items()}

    def repeat(self, call: Caller, newest: int = 0) -> None:
        """Makes every change again, or the newest ones, under its request id: the answers are equivalent, as far as the
        release that is asked now knows what they say."""
        known = set(call("fields")["names"])
        for told in self.changes[-newest:]:
            before = {(name, it) for name, it in named(told.answer) if name in known}
            assert named(call(told.method, **told.request)) >= before, told.method

    def forget(self, registration_id: str) -> None:
        """Leaves out an enrollment whose registration is gone, so that repeating it has no answer."""
        self.changes = [
            told
            for told in self.changes
            if told.answer.get("registration", {}).get("registration_id") != registration_id
        ]


def named(message: Any) -> set[tuple[str, str]]:
    """The ids and secrets in a message, which an equivalent answer has as well."""
    if isinstance(message, list):
        return {pair for each in message for pair in named(each)}
    if not isinstance(message, dict):
        return set()
    own = {(name, it) for name, it in message.items() if name.endswith("_id") or name in SECRETS}
    return own.union(*map(named, message.values()))


def missing(now: Any, before: Any, path: str = "") -> list[str]:
    """Where a message lacks or changes what it had before; what is new in it does not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [each for name, it in before.items() for each in missing(now.get(name), it, f"{path}.{name}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(now, before, strict=True))
        return [each for number, (a, b) in pairs for each in missing(a, b, f"{path}[{number}]")]
    return [] if now == before else [f"{path}: {before!r} became {now!r}"]
