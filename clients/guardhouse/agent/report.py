"""How an agent is, as a sentence for people: made of what it last said of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from guardhouse.durations import MINUTE, SECOND, format_duration

SILENT: Final = 2 * MINUTE
"""An agent that runs says more often than this how it is."""
HANDSHAKE: Final = 3 * MINUTE
"""A tunnel that is used makes a handshake every two minutes."""
HEADINGS: Final = ("registration", "account", "state", "current", "ipv4", "ipv6", "heard of")


@dataclass(frozen=True, slots=True)
class Report:
    """A sentence that says what is wrong and what to do, or that nothing is."""

    ok: bool
    sentence: str
    reasons: tuple[str, ...] = ()
    """Of the contract, for what may be done about them."""


def judge(said: Mapping[str, Any] | None, now: int, *, is_running: bool) -> Report:
    """`said` is the file of the agent's state. The worst comes first, and only that."""
    if said is None:
        return Report(False, "no agent has run here yet: guardhouse agent run")
    silent = now - int(said["time"])
    if not is_running:
        return Report(False, f"the agent is not running: start it; what follows is as it left it {_ago(silent)}")
    if silent > SILENT:
        return Report(False, f"the agent has said nothing since {_ago(silent)}: restart it, its log says more")
    if said["interface_problem"]:
        return Report(False, str(said["interface_problem"]))
    for of in said["registrations"]:
        if (found := _of_registration(of, said)) is not None:
            return found
    if said["asks_to_register"]:
        return Report(
            False,
            f"{said['os_user']} has no registration on this machine: guardhouse login | guardhouse agent tell sign-in"
            f" --user {said['os_user']} --id-token-file -",
        )
    return _of_tunnel(said, now)


def rows(said: Mapping[str, Any] | None) -> list[Sequence[str]]:
    """The registrations, for a table with HEADINGS."""
    if said is None:
        return []
    return [
        (
            of["registration_id"] or "-",
            of["os_user"] or ("login screen" if of["pre_login"] else "-"),
            of["standing"],
            "yes" if of["current"] else "no",
            of["ipv4"] or "-",
            of["ipv6"] or "-",
            _ago(int(said["time"]) - of["heard_time"]) if of["heard_time"] else "-",
        )
        for of in said["registrations"]
    ]


def _of_registration(of: Mapping[str, Any], said: Mapping[str, Any]) -> Report | None:
    """None: it is as it should be."""
    problem = of["problems"][0] if of["problems"] else None
    reasons = (problem["reason"],) if problem else ()
    who = f" of {of['os_user']}" if of["os_user"] else " of the login screen" if of["pre_login"] else ""
    user = f" --user {of['os_user']}" if of["os_user"] else ""
    sign_in = f"guardhouse login | guardhouse agent tell sign-in{user} --id-token-file -"
    if of["standing"] == "revoked":
        sentence = f"the registration{who} is revoked, so nothing connects: an administrator can restore it"
        return Report(False, f"{sentence} (guardhouse registrations unrevoke {of['registration_id']})")
    if of["standing"] == "none":
        if problem is None:
            if of["waits"]:
                return Report(False, f"the registration{who} was deleted: sign in to enroll anew ({sign_in})")
            return Report(False, f"the registration{who} is being made")
        if of["waits"]:
            return Report(False, f"{problem['message']} ({sign_in})", reasons)
        return Report(False, f"this machine cannot be enrolled now, and tries again: {problem['message']}", reasons)
    if of["asked"] and of["waits_for_person"]:
        return Report(False, f"the session{who} has to begin anew: sign in ({sign_in})")
    if problem is not None:
        goes_on = "; the tunnel goes on" if of["current"] and said["interface"] else ""
        since = f" (last heard of {_ago(int(said['time']) - of['heard_time'])})" if of["heard_time"] else ""
        return Report(False, f"{problem['message']}{since}{goes_on}", reasons)
    return None


def _of_tunnel(said: Mapping[str, Any], now: int) -> Report:
    current = next((of for of in said["registrations"] if of["current"]), None)
    if current is None:
        return Report(True, "nobody's registration is current, so nothing is connected")
    name = f"{current['registration_id']} is registered"
    if said["interface"] is None:
        return Report(True, f"{name}; no interface is set up: --interface names one")
    if not said["gateway"] or not said["tunneled"]:
        return Report(True, f"{name}; its profile sends nothing through a tunnel of WireGuard")
    note = ""
    if said["unused_hosts"]:
        many = len(said["unused_hosts"])
        names = "1 host name is" if many == 1 else f"{many} host names are"
        note = f"; of its split tunnel {names} passed over, as routes have none"
    since = now - said["handshake_time"] * SECOND
    if not said["handshake_time"] or since > HANDSHAKE:
        when = f"since {_ago(since)}" if said["handshake_time"] else "yet"
        return Report(
            False,
            f"{name}, and the gateway at {said['gateway']} has not answered {when}: check that it runs, that UDP gets"
            f" through, and that its key is right{note}",
        )
    return Report(True, f"connected as {current['registration_id']}; the gateway answered {_ago(since)}{note}")


def _ago(microseconds: int) -> str:
    whole = max(0, microseconds)
    return f"{format_duration(whole - whole % SECOND)} ago"
