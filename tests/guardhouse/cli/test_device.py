"""This machine: enrolling it, and what it calls for itself afterwards."""

import base64
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

import pytest

from guardhouse import enrollment, errors, keys
from guardhouse.cli import enroll, invocation
from guardhouse.profile import PROFILE_VARIABLE, load
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.cli.commands import ORGANIZATION, Run, RunPlane, words
from tests.guardhouse.scripted import DeviceRegistry, ScriptedServer
from tests.plane import Plane
from tests.system.people import World


def test_a_machine_enrolls_and_keeps_its_secrets_to_itself(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    DeviceRegistry(installation)
    result = run("enroll --id-token signed --name laptop --wireguard wg/wg0.conf --save keep")
    token, key, wireguard = tmp_path / "keep/reg_1.token", tmp_path / "keep/reg_1.key", tmp_path / "wg/wg0.conf"
    assert token.read_text() == "ghr_token\n"
    assert f"PrivateKey = {key.read_text().strip()}\nAddress = 100.96.0.1/32, fd00::1/128\n" in wireguard.read_text()
    for path in (token, key, wireguard):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for text in ("reg_1", "100.96.0.1", "fd00::1", "keep/reg_1.token", "wg/wg0.conf"):
        assert text in result.stdout
    for answer in (result, run("enroll --id-token signed --save again --json")):
        assert "ghr_token" not in answer.output
        assert key.read_text().strip() not in answer.output
    profile = load(tmp_path / "keep/reg_1.toml")
    assert profile.registration_id == "reg_1"
    assert profile.organization_id == ORGANIZATION
    assert profile.key_file == tmp_path / "keep/reg_1.token"
    device = installation.requests("Register")[0].device
    assert (device.hardware_id, device.display_name) == (enroll.machine_id(), "laptop")


def test_an_enrollment_that_could_not_be_kept_is_not_made(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    DeviceRegistry(installation)
    (tmp_path / "wg0.conf").write_text("[Peer]")
    said = words(run("enroll --id-token signed --wireguard wg0.conf --save .", exit_code=2).stderr)
    assert "wg0.conf exists" in said
    run("enroll --id-token signed --save wg0.conf/keep", exit_code=1)
    run("enroll --save .", exit_code=2)
    run("enroll --id-token signed --key-type secp256r1 --wireguard other.conf --save .", exit_code=2)
    assert not installation.calls


def test_the_hardware_id_stays_the_same_and_gives_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_id = tmp_path / "machine-id"
    monkeypatch.setattr(enroll, "MACHINE_IDS", (tmp_path / "none", machine_id))
    machine_id.write_text("uninitialized\n")
    assert enroll.machine_id() == platform.node()
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    enrolled = enroll.machine_id()
    assert enroll.machine_id() == enrolled
    assert "0123456789" not in enrolled
    machine_id.write_text("1123456789abcdef0123456789abcdef\n")
    assert enroll.machine_id() != enrolled


def test_a_key_of_the_other_kind_is_asked_for_by_name(run: Run, installation: ScriptedServer, tmp_path: Path) -> None:
    DeviceRegistry(installation)
    run("enroll --id-token signed --key-type secp256r1 --save keep")
    (request,) = installation.requests("Register")
    private = base64.b64decode((tmp_path / "keep/reg_1.key").read_text())
    assert request.key_type == registry.KEY_TYPE_SECP256R1
    assert request.public_key == keys.SECP256R1.public_key(private)


def kept(tmp_path: Path) -> dict[str, Path]:
    """The files of the registration, by their suffix."""
    return {path.suffix: path for path in (tmp_path / "home/.config/guardhouse").iterdir()}


async def enrolled(run_plane: RunPlane, world: World, more: str = "") -> str:
    credential = world.id_token("alice")
    made = await run_plane(f"enroll --id-token {credential.id_token} --json {more}")
    return str(json.loads(made.stdout)["registration"]["registration_id"])


async def test_a_machine_lives_by_what_enrolling_has_kept(
    run_plane: RunPlane, world: World, plane: Plane, tmp_path: Path
) -> None:
    registration_id = await enrolled(run_plane, world, "--wireguard wg0.conf")
    assert registration_id in (await run_plane("device show")).stdout
    assert "was heard of" in (await run_plane("device heartbeat")).stdout
    before = (await world.live())[0]
    await plane.advance(60)
    signed_in = await run_plane(f"device reauthenticate --id-token {world.id_token('alice').id_token}")
    assert f"{registration_id} authenticated at" in signed_in.stdout

    wireguard = tmp_path / "wg0.conf"
    wireguard.write_text(f"{wireguard.read_text()}\n[Peer]\n")
    await run_plane("device rotate-key --wireguard wg0.conf")
    (after,) = await world.live()
    private = base64.b64decode(kept(tmp_path)[".key"].read_text())
    assert after.public_key == keys.public_key(private) != before.public_key
    assert after.ipv4 == before.ipv4
    assert f"PrivateKey = {base64.b64encode(private).decode()}\n" in wireguard.read_text()
    assert "[Peer]" in wireguard.read_text()
    for path in (wireguard, kept(tmp_path)[".key"]):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    await run_plane("device rotate-key --key-type secp256r1")
    (after,) = await world.live()
    assert after.key_type == registry.KEY_TYPE_SECP256R1
    listed = (await run_plane(f"registrations keys {registration_id} --json")).stdout
    assert [it["key_type"] for it in json.loads(listed)["registration_keys"]] == [
        *["KEY_TYPE_CURVE25519"] * 2,
        "KEY_TYPE_SECP256R1",
    ]

    shown = (await run_plane(f"registrations override-codes {registration_id}")).stdout.splitlines()
    hours, code = shown[-1].split()[:2]
    assert (len(shown), hours) == (6, "24")
    assert "hours" in (await run_plane(f"device check-override {code}")).stdout
    wrong = f"{(int(code) + 1) % 10**7:07}"
    assert "OVERRIDE_CODE_INVALID" in (await run_plane(f"device check-override {wrong}", exit_code=1)).stderr

    assert f"{registration_id} deleted" in (await run_plane("device leave --yes")).stdout
    assert not await world.live()
    assert kept(tmp_path) == {}
    assert "guardhouse enroll" in (await run_plane("device show", exit_code=1)).stderr


def test_a_heartbeat_says_what_is_known_of_the_posture(run: Run, installation: ScriptedServer) -> None:
    """Decision 32a: one that says nothing leaves it as it was."""
    DeviceRegistry(installation)
    run("enroll --id-token signed")
    installation.answers["Heartbeat"] = registry.HeartbeatResponse()
    run("device heartbeat")
    run("device heartbeat --passed disk --failed firewall --failed updates")
    silent, said = installation.requests("Heartbeat")
    assert not silent.HasField("posture")
    assert said.posture == registry.DevicePosture(passed=["disk"], failed=["firewall", "updates"])
    assert not silent.HasField("network")
    run("device heartbeat --network office")
    run("device heartbeat --network none")
    assert [it.network for it in installation.requests("Heartbeat")[2:]] == ["office", ""]
    assert all(it.HasField("network") for it in installation.requests("Heartbeat")[2:])


def test_a_managed_machine_says_so_when_it_enrolls(run: Run, installation: ScriptedServer) -> None:
    """Decision 18."""
    DeviceRegistry(installation)
    run("enroll --id-token signed --managed")
    run("enroll --id-token signed --save other")
    assert [it.managed for it in installation.requests("Register")] == [True, False]


async def test_a_rotation_whose_answer_was_lost_is_finished_by_the_next(
    run_plane: RunPlane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 21: the new key counts once it is committed, so it must not be lost with the answer."""
    await enrolled(run_plane, world)
    old = kept(tmp_path)[".key"].read_text()
    rotate = enrollment.rotate

    def lose_the_answer(*arguments: Any) -> None:
        rotate(*arguments)
        raise errors.ServiceUnavailable("registry did not answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(enrollment, "rotate", lose_the_answer)
        await run_plane("device rotate-key", exit_code=1)
    assert kept(tmp_path)[".key"].read_text() == old
    (registered,) = await world.live()
    await run_plane("device rotate-key")
    private = base64.b64decode(kept(tmp_path)[".key"].read_text())
    assert registered.public_key == (await world.live())[0].public_key == keys.public_key(private)
    assert set(kept(tmp_path)) == {".key", ".token", ".toml"}


async def test_a_rotation_that_never_arrived_is_made_by_the_next(
    run_plane: RunPlane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrolled(run_plane, world)

    def never_arrive(*arguments: Any) -> None:
        raise errors.ServiceUnavailable("registry cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(enrollment, "rotate", never_arrive)
        await run_plane("device rotate-key", exit_code=1)
    await run_plane("device rotate-key")
    private = base64.b64decode(kept(tmp_path)[".key"].read_text())
    assert (await world.live())[0].public_key == keys.public_key(private)


async def test_what_a_crash_has_left_of_a_new_key_is_replaced(
    run_plane: RunPlane, world: World, tmp_path: Path
) -> None:
    registration_id = await enrolled(run_plane, world)
    new_key = kept(tmp_path)[".key"].with_name(f"{registration_id}.key.new")
    for left in (b"", b"AAAA", bytes(45), b"\xff" * 45):
        new_key.write_bytes(left)
        await run_plane("device rotate-key")
        private = base64.b64decode(kept(tmp_path)[".key"].read_text())
        assert (await world.live())[0].public_key == keys.public_key(private)
        assert not new_key.exists()


async def test_a_new_key_is_on_the_disk_before_it_can_count(
    run_plane: RunPlane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its name: whoever loses power after the answer still has the key that counts."""
    await enrolled(run_plane, world)
    on_disk: set[int] = set()
    fsync, rotate = os.fsync, enrollment.rotate

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)

    def checked(*arguments: Any) -> enrollment.Rotation:
        new_key = kept(tmp_path)[".new"]
        assert {new_key.stat().st_ino, new_key.parent.stat().st_ino} <= on_disk
        return rotate(*arguments)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(enrollment, "rotate", checked)
    await run_plane("device rotate-key")


async def test_leaving_asks_first(run_plane: RunPlane, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await enrolled(run_plane, world)
    assert "pass --yes" in words((await run_plane("device leave", exit_code=2)).stderr)
    monkeypatch.setattr(invocation, "is_interactive", lambda: True)
    (held,) = await world.live()
    said = await run_plane("device leave", exit_code=1, stdin="n\n")
    assert f"for good and releases {held.ipv4} and {held.ipv6}. Continue?" in said.stderr
    assert await world.live()


def test_a_folder_that_is_named_wins_over_the_profile(
    run: Run, installation: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DeviceRegistry(installation)
    for folder in ("one", "other"):
        run(f"enroll --id-token signed --save {folder}")
    (tmp_path / "other/reg_1.token").write_text("ghr_other")
    monkeypatch.setenv(PROFILE_VARIABLE, "one/reg_1.toml")
    installation.answers["Leave"] = registry.LeaveResponse()
    run("device leave --from other --yes")
    (call,) = (call for call in installation.calls if call.method == "Leave")
    assert call.metadata["authorization"] == "Bearer ghr_other"
    assert (len(list((tmp_path / "one").iterdir())), len(list((tmp_path / "other").iterdir()))) == (3, 0)


def test_of_several_registrations_one_must_be_named(run: Run, installation: ScriptedServer, tmp_path: Path) -> None:
    DeviceRegistry(installation)
    run("enroll --id-token signed")
    folder = tmp_path / ".config/guardhouse"
    for suffix in (".toml", ".token", ".key"):
        text = (folder / f"reg_1{suffix}").read_text()
        (folder / f"reg_2{suffix}").write_text(text.replace("reg_1", "reg_2").replace("ghr_token", "ghr_other"))
    installation.answers["Heartbeat"] = registry.HeartbeatResponse()
    assert "reg_1, reg_2" in words(run("device heartbeat", exit_code=2).stderr)
    run("device heartbeat --registration reg_2")
    run(f"device heartbeat --profile {folder / 'reg_1.toml'}")
    calls = [call for call in installation.calls if call.method == "Heartbeat"]
    assert [(call.request.registration_id, call.metadata["authorization"]) for call in calls] == [
        ("reg_2", "Bearer ghr_other"),
        ("reg_1", "Bearer ghr_token"),
    ]
