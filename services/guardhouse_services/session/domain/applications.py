"""What an Access application may be (decision 31)."""

from collections.abc import Sequence

from guardhouse.applications import Application, DeviceSessionSettings, Policy, PolicyDecision
from guardhouse.errors import DeviceSessionDurationRequired, InvalidField
from guardhouse.rules import RuleKind

LIMIT = 500
"""How many an organization may have (the public account limits)."""
MAX_POLICIES = 100
MAX_PROVIDERS = 20
NAMED = 100
"""How many applications a refusal names."""

_TIMED = (PolicyDecision.ALLOW, PolicyDecision.SERVICE_AUTH)
_ANYWHERE = {RuleKind.EVERYONE, RuleKind.IP_RANGE, RuleKind.COUNTRY}
_OF_MACHINES = {RuleKind.SERVICE_TOKEN, RuleKind.ANY_SERVICE_TOKEN}
_USABLE = {
    PolicyDecision.ALLOW: set(RuleKind) - _OF_MACHINES,
    PolicyDecision.BLOCK: set(RuleKind) - _OF_MACHINES,
    PolicyDecision.SERVICE_AUTH: {*_ANYWHERE, *_OF_MACHINES, RuleKind.POSTURE_CHECK},
    PolicyDecision.BYPASS: _ANYWHERE,
}
_WHY = {
    PolicyDecision.ALLOW: "service tokens are let in by SERVICE_AUTH policies only; make such a policy for them",
    PolicyDecision.BLOCK: "service tokens are let in by SERVICE_AUTH policies only, and without one they stay out",
    PolicyDecision.SERVICE_AUTH: "such a policy is for service tokens; people have ALLOW and BLOCK policies",
    PolicyDecision.BYPASS: "such a policy asks for nobody; it knows the client's address and country only",
}


def check(application: Application) -> None:
    """Raises InvalidField for what cannot be used together, whatever each part is by itself."""
    names = set[str]()
    for place, policy in enumerate(application.policies):
        field = f"application.policies[{place}]"
        if policy.display_name in names:
            message = f"another policy of the application is called {policy.display_name!r}"
            raise InvalidField(f"{field}.display_name", message)
        names.add(policy.display_name)
        _check_policy(policy, field)
    if application.device_session and not application.can_take_devices:
        reason = "it has a binding cookie" if application.binding_cookie else "it has policies besides ALLOW and BLOCK"
        message = f"the session of a device cannot be enough for this application, because {reason}"
        raise InvalidField("application.device_session", message)


def _check_policy(policy: Policy, field: str) -> None:
    """A rule about somebody whom the policy never meets would look as if it let them in, or kept them out."""
    decision = policy.decision
    if policy.session_duration is not None and decision not in _TIMED:
        message = f"a {decision.name} policy begins no session; session_duration is for ALLOW and SERVICE_AUTH only"
        raise InvalidField(f"{field}.session_duration", message)
    for name in ("include", "require", "exclude"):
        for place, rule in enumerate(getattr(policy, name)):
            if rule.kind not in _USABLE[decision]:
                message = f"{rule.kind} never matches under {decision.name}: {_WHY[decision]}"
                raise InvalidField(f"{field}.{name}[{place}].{rule.kind}", message)


def check_duration(settings: DeviceSessionSettings, explicit: Sequence[str]) -> None:
    """Raises DeviceSessionDurationRequired where the session of a device is to be enough, and none ever is.

    `explicit` are the applications that say so themselves; an empty id is of one that is being made.
    """
    if settings.session_duration is not None or not (settings.apply_by_default or explicit):
        return
    message = "set the session_duration of the device session settings first: it says how old a device's session may be"
    named = ",".join(filter(None, explicit[:NAMED]))
    raise DeviceSessionDurationRequired(message, application_ids=named)
