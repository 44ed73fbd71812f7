"""What docs/registry.md says to type about shared devices, run as it stands there (decision 19)."""

from pathlib import Path

import pytest

from guardhouse.registry.v1 import registry_pb2 as registry
from tests.system.test_device_flows import Office, office

__all__ = ["office"]


def test_a_windows_working_day(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions 19 and 26: the login screen, a fast switch, a log-out; and whose each address was."""
    monkeypatch.chdir(tmp_path)
    office.run(
        "A Windows working day",
        HARDWARE="pc-7",
        SCREEN=office.token.client_id,
        SECRET=office.secret,
        ANNA=office.issuer.sign_in("alice@example.com"),
        BEN=office.issuer.sign_in("bob@example.com"),
    )
    (device_id,) = {it.device_id for it in _registrations(office)}
    of = {it.multi_user.os_user: it for it in _registrations(office)}
    anna, ben, screen = of["anna"], of["ben"], of[""]
    assert screen.multi_user.pre_login
    assert [it.current for it in (anna, ben, screen)] == [True, False, False]
    assert anna.user_id != ben.user_id

    request = registry.ListOsSessionsRequest(organization_id=office.organization_id, device_id=device_id)
    sessions = office.client.devices.ListOsSessions(request).os_sessions
    assert [(it.os_user, it.registration_id, it.asks_to_register) for it in reversed(sessions)] == [
        ("", screen.registration_id, False),
        ("anna", "", True),
        ("anna", anna.registration_id, False),
        ("ben", "", True),
        ("ben", ben.registration_id, False),
        ("ben", screen.registration_id, False),
        ("anna", anna.registration_id, False),
    ]

    shown = office.run("Who it was", DEVICE=device_id, ADDRESS=anna.ipv4)
    assert anna.registration_id in shown
    assert " ".join(shown.splitlines()[-1].split()) == "current yes"
    others = office.run("Who it was", DEVICE=device_id, ADDRESS=ben.ipv6)
    assert " ".join(others.splitlines()[-1].split()) == f"current {anna.registration_id}"


def _registrations(office: Office) -> list[registry.Registration]:
    request = registry.ListRegistrationsRequest(organization_id=office.organization_id)
    found = office.client.registrations.ListRegistrations(request).registrations
    return [it for it in found if it.HasField("multi_user")]
