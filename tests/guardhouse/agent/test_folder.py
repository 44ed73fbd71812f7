"""What an agent keeps: whole or not at all, its owner's only, and one agent's at a time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from guardhouse.agent.folder import Folder, FolderBusy, FolderUnusable, Kept
from guardhouse.profile import Profile, find
from guardhouse.registry.v1 import registry_pb2 as pb

REGISTRATION = "reg_" + "3" * 32
KEPT = Kept(
    registration=pb.Registration(registration_id=REGISTRATION, ipv4="100.96.0.1", public_key=b"k" * 32),
    configuration=pb.DeviceConfiguration(etag="e"),
    token="the token",
    private_key=b"p" * 32,
    request=pb.RegisterRequest(organization_id="org_" + "1" * 32, request_id="r"),
    key_time=7,
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "state")
    with made.locked():
        made.keep(KEPT, Profile(registry="localhost:1"))
    return made


def test_what_is_kept_is_found_again_and_is_only_ours(folder: Folder) -> None:
    assert folder.registrations() == [KEPT]
    for path in folder.path.glob("reg_*"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert folder.path.stat().st_mode & 0o777 == 0o700
    # As `guardhouse enroll` keeps it.
    profile = find(folder.path / f"{REGISTRATION}.toml")
    assert (profile.key, profile.registration_id) == ("the token", REGISTRATION)
    folder.forget(REGISTRATION)
    assert folder.registrations() == []


@pytest.mark.parametrize("suffix", ["key", "token", "request"])
def test_a_secret_that_others_can_read_is_refused(folder: Folder, suffix: str) -> None:
    path = folder.path / f"{REGISTRATION}.{suffix}"
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(FolderUnusable, match=f"can be read by others .mode {mode:04o}.*chmod 600 {path}"):
            folder.registrations()
    path.chmod(0o600)
    assert folder.registrations() == [KEPT]
    path.unlink()
    with pytest.raises(FolderUnusable, match=r"is missing: put it back, or move"):
        folder.registrations()


@pytest.mark.parametrize("content", [b"", b"not base64!", b"AAAA\n", b"\x00" * 32])
def test_what_is_no_key_is_refused(folder: Folder, content: bytes) -> None:
    (folder.path / f"{REGISTRATION}.key").write_bytes(content)
    with pytest.raises(FolderUnusable, match="holds no private key"):
        folder.registrations()


def test_what_the_registry_says_again_may_be_damaged(folder: Folder) -> None:
    for content in ("", "{}", '{"key_time": "x"}', '{"key_time": 1, "answer": {"registration": 7}}'):
        (folder.path / f"{REGISTRATION}.json").write_text(content)
        (kept,) = folder.registrations()
        assert (kept.registration_id, kept.key_time, kept.token) == (REGISTRATION, 0, "the token")


def test_a_crash_leaves_a_registration_or_none(tmp_path: Path) -> None:
    """It dies before each file; what is found is the registration, or what repeats the enrollment."""

    class Dying(Folder):
        left = 0

        def _write(self, stem: Path, suffix: str, content: bytes) -> None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            super()._write(stem, suffix, content)

    for survived in range(20):
        folder = Folder(tmp_path / str(survived))
        with folder.locked():
            folder.intend("machine", KEPT.private_key, KEPT.request)
            dying = Dying(folder.path)
            dying.left = survived
            try:
                dying.keep(KEPT, Profile())
            except KeyboardInterrupt:
                assert folder.registrations() == []
                assert folder.intent("machine") == (KEPT.private_key, KEPT.request)
            else:
                assert folder.registrations() == [KEPT]
                assert survived == 5
                return
    pytest.fail("it never got through")


def test_a_new_key_is_there_before_anybody_hears_of_it(folder: Folder) -> None:
    folder.prepare(KEPT, b"n" * 32)
    (kept,) = folder.registrations()
    assert kept == replace(KEPT, new_private_key=b"n" * 32)
    folder.swap(kept)
    assert folder.registrations() == [replace(KEPT, private_key=b"n" * 32)]


def test_an_enrollment_that_was_never_sent_is_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.intend("machine", b"p" * 32, KEPT.request)
    (tmp_path / "enrolling-machine.request").unlink()
    assert folder.intent("machine") is None


def test_a_second_agent_is_refused(folder: Folder) -> None:
    with folder.locked():
        assert folder.is_locked
        with pytest.raises(FolderBusy, match=r"another agent has .* \(process \d+\): stop it first"), folder.locked():
            pytest.fail("two have it")
    assert not folder.is_locked
    # The lock goes with its process, however that ends.
    program = (
        "import sys, os, pathlib; from guardhouse.agent.folder import Folder\n"
        f"with Folder(pathlib.Path({str(folder.path)!r})).locked(): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    with folder.locked():
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderUnusable, match="cannot be written to"), Folder(tmp_path / "file" / "state").locked():
        pytest.fail("it is a file")
