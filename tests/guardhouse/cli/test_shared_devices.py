"""What the command line says of devices that several people share (decision 19)."""

import json

from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.cli.commands import NOON, REGISTRATION, USER, Run, words
from tests.guardhouse.scripted import ScriptedServer

DEVICE = "dev_" + "5" * 32
LINE = "addresses who 100.96.0.1 --at 2026-09-21T14:13:20Z"


def test_whose_traffic_it_was_is_asked_of_both_services(run: Run, installation: ScriptedServer) -> None:
    """Decisions 19 and 26: an address is its holder's, and another one of the device may have been current."""
    lease = ipam.Lease(registration_id=REGISTRATION, user_id=USER, device_id=DEVICE)
    installation.answers["LookupAddress"] = ipam.LookupAddressResponse(lease=lease)
    installation.answers["ListOsSessions"] = registry.ListOsSessionsResponse()
    assert "current" not in run(LINE).stdout
    assert json.loads(run(f"{LINE} --json").stdout)["is_current"] is True
    other = "reg_" + "9" * 32
    session = registry.OsSession(os_user="PC\\ben", registration_id=other, begin_time=NOON)
    installation.answers["ListOsSessions"] = registry.ListOsSessionsResponse(os_sessions=[session])
    shown = run(LINE).stdout
    assert REGISTRATION in shown
    assert "PC\\ben" in shown
    assert words(shown).endswith(f"current {other}")
    assert json.loads(run(f"{LINE} --json").stdout)["is_current"] is False
    asked = installation.requests("ListOsSessions")[0]
    assert (asked.device_id, asked.time) == (DEVICE, installation.requests("LookupAddress")[0].time)


def test_the_login_screen_has_no_account(run: Run, installation: ScriptedServer) -> None:
    said = words(run("enroll --multi-user anna --pre-login --id-token token", exit_code=2).stderr)
    assert "the login screen has no account" in said
    assert not installation.calls
