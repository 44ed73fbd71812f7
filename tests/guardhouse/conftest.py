"""A scripted installation with real TLS, and the profile by which clients find it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from guardhouse.profile import DEFAULT_PATH, KEY_VARIABLE, PROFILE_VARIABLE, SERVICES, Profile
from guardhouse_services import tls
from tests.clock import FakeClock
from tests.guardhouse.scripted import ScriptedServer


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installation") / "tls"
    tls.prepare(folder, "guardhouse.local", "127.0.0.1", FakeClock().now())
    return folder


@pytest.fixture
def installation(tls_folder: Path) -> Iterator[ScriptedServer]:
    """All four services on one port, behind the certificate of one."""
    with ScriptedServer(tls.public_credentials(tls_folder, "identity")) as server:
        yield server


@pytest.fixture
def profile(installation: ScriptedServer, tls_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Written to var/client.toml below the working folder, as `make run` does, with nothing in the environment."""
    for variable in (PROFILE_VARIABLE, KEY_VARIABLE, "GUARDHOUSE_ORGANIZATION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    key_file = tmp_path / "var" / "keys" / "admin.key"
    key_file.parent.mkdir(parents=True)
    key_file.write_text("ghk_key_1_of_the_file\n")
    profile = Profile(**dict.fromkeys(SERVICES, installation.address), ca=tls_folder / "ca.crt", key_file=key_file)
    profile.write(DEFAULT_PATH)
    return profile
