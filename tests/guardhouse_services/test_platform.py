"""The small parts of the platform: failpoints, secrets, page tokens, settings."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardhouse.durations import DAY
from guardhouse.errors import CredentialsInvalid, InvalidField, PageTokenInvalid
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services import failpoint
from guardhouse_services.config import SERVICES, CannotStart, Settings, describe
from guardhouse_services.credentials import MasterKey, format_secret, hash_secret, split_secret
from guardhouse_services.paging import DEFAULT_SIZE, MAX_SIZE, Page, Pages

NOW = 1_800_000_000_000_000
KEY = MasterKey(b"k" * 32)


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    failpoint.arm("")


def test_a_failpoint_that_is_not_armed_does_nothing() -> None:
    failpoint.failpoint("any.name")


@pytest.mark.usefixtures("armed")
def test_a_failpoint_raises_on_the_pass_that_is_wanted() -> None:
    failpoint.arm("a.b=2*raise")
    failpoint.failpoint("a.b")
    failpoint.failpoint("a.c")
    with pytest.raises(failpoint.FailpointRaised, match=r"a\.b"):
        failpoint.failpoint("a.b")
    failpoint.failpoint("a.b")


@pytest.mark.usefixtures("armed")
def test_a_failpoint_delays() -> None:
    failpoint.arm("a.b=delay:0.05,a.c=raise")
    began = time.monotonic()
    failpoint.failpoint("a.b")
    assert time.monotonic() - began >= 0.05


def test_a_failpoint_kills_its_process() -> None:
    code = "from guardhouse_services.failpoint import failpoint; failpoint('a.b'); print('alive')"
    environment = {"GUARDHOUSE_FAILPOINTS": "a.b=kill"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=30)
    assert done.returncode == -9
    assert done.stdout == b""


@pytest.mark.parametrize("text", ["a.b", "a.b=explode", "a.b=2*delay", "a.b=kill,c"])
def test_an_unknown_action_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="GUARDHOUSE_FAILPOINTS"):
        failpoint.arm(text)


def test_a_secret_can_be_made_again_and_by_nobody_else() -> None:
    secret = KEY.derive("api key", "key_1")
    assert len(secret) == 32
    assert secret == KEY.derive("api key", "key_1")
    others = [
        KEY.derive("api key", "key_2"),
        KEY.derive("registration token", "key_1"),
        KEY.derive("api", "key", "key_1"),
        MasterKey(b"l" * 32).derive("api key", "key_1"),
    ]
    assert secret not in others
    bearer = format_secret("ghk", "key_1", secret)
    assert split_secret(bearer) == ("ghk", "key_1")
    assert hash_secret(bearer) != hash_secret(bearer[:-1])


@pytest.mark.parametrize("bearer", ["", "ghk", "ghk_key_1", "ghk_key_1_" + "x" * 300])
def test_a_value_of_another_form_is_no_secret(bearer: str) -> None:
    with pytest.raises(CredentialsInvalid):
        split_secret(bearer)


def test_the_installations_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = MasterKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert MasterKey.create(path).derive("x") == first.derive("x")
    for text in ("00", "not hex"):
        path.write_text(text)
        with pytest.raises(CannotStart, match="32 bytes"):
            MasterKey.read(path)


def request(**values: object) -> pb.ListRegistrationsRequest:
    return pb.ListRegistrationsRequest(organization_id="org_1", **values)  # type: ignore[arg-type]


def test_a_page_token_leads_to_the_next_page() -> None:
    pages = Pages(KEY)
    page = pages.read(request(page_size=2), NOW)
    assert page == Page("", 2)
    shown, token = pages.cut(request(page_size=2), page, ["a", "b", "c"], str, NOW)
    assert shown == ["a", "b"]
    assert pages.read(request(page_size=5, page_token=token, at_least=["t"]), NOW + DAY) == Page("b", 5)
    assert pages.cut(request(), page, ["a", "b"], str, NOW) == (["a", "b"], "")


def test_page_sizes_are_clamped() -> None:
    assert Pages(KEY).read(request(), NOW).size == DEFAULT_SIZE
    assert Pages(KEY).read(request(page_size=10**6), NOW).size == MAX_SIZE
    with pytest.raises(InvalidField) as raised:
        Pages(KEY).read(request(page_size=-1), NOW)
    assert raised.value.field == "page_size"


def test_a_page_token_is_of_its_list_only() -> None:
    pages = Pages(KEY)
    page = Page("", 1)
    _, token = pages.cut(request(), page, ["a", "b"], str, NOW)
    for other in (
        request(page_token=token, user_id="usr_1"),
        request(page_token=token[:-1]),
        request(page_token=token + "AAAA"),
        pb.ListDevicesRequest(organization_id="org_1", page_token=token),
    ):
        with pytest.raises(PageTokenInvalid):
            pages.read(other, NOW)
    with pytest.raises(PageTokenInvalid):
        pages.read(request(page_token=token), NOW + DAY + 1)
    with pytest.raises(PageTokenInvalid):
        Pages(MasterKey(b"l" * 32)).read(request(page_token=token), NOW)


def test_every_setting_is_described() -> None:
    assert {name for name, _, _ in describe()} == {f"GUARDHOUSE_{name.upper()}" for name in Settings.model_fields}
    assert all(meaning.endswith(".") for _, _, meaning in describe())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDHOUSE_PORT_BASE", "8400")
    monkeypatch.setenv("GUARDHOUSE_DATABASE_URL", "postgresql://db/guardhouse_{service}")
    settings = Settings()
    assert [settings.public_port(service) for service in SERVICES] == [8401, 8402, 8403, 8404]
    assert [settings.service_port(service) for service in SERVICES] == [8411, 8412, 8413, 8414]
    assert settings.database("ipam") == "postgresql://db/guardhouse_ipam"


@pytest.mark.parametrize(("host", "reflects"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("db", False)])
def test_reflection_is_on_for_loopback_only(host: str, reflects: bool) -> None:
    assert Settings(host=host).reflects is reflects
    assert Settings(host=host, reflection="off").reflects is False
    assert Settings(host=host, reflection="on").reflects is True
