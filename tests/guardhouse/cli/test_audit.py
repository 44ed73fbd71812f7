"""Audit logs on the command line, against a real control plane (decisions of the audit: see audit.proto)."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.message import Message

from guardhouse import errors
from guardhouse.audit import FIRST, public_key, sign
from guardhouse.cli import audit, output
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as rpc
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse_services.audit import audit_record
from guardhouse_services.database import Database, Transaction, new_epoch
from tests.guardhouse.cli.commands import ORGANIZATION, Run, RunPlane, words
from tests.guardhouse.scripted import ScriptedServer
from tests.plane import Plane
from tests.system.people import World


@pytest.fixture
async def busy(world: World) -> World:
    """Three people who enrolled, of whom the first was revoked, and a policy."""
    for name in ("alice", "bob", "carol"):
        await world.enroll(name)
        world.plane.clock.advance(1)
    first = (await world.live())[0]
    await world.registrations.RevokeRegistrations(
        world.batch(registry.RevokeRegistrationsRequest, first.registration_id)
    )
    await world.policy("8h")
    return world


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


async def test_the_four_logs_are_one_story(run_plane: RunPlane, busy: World) -> None:
    lines = cells((await run_plane("audit tail")).stdout)
    times = [" ".join(line[:2]) for line in lines]
    assert times == sorted(times)
    assert {line[2] for line in lines} == {"identity", "registry", "ipam", "session"}
    methods = [line[4] for line in lines]
    assert methods.index("Register") < methods.index("RevokeRegistrations") < methods.index("CreatePolicy")
    (revoked,) = (line for line in lines if line[4] == "RevokeRegistrations")
    assert revoked[3].startswith("key:key_")
    assert revoked[6].startswith("reg_")

    newest = [json.loads(line) for line in (await run_plane("audit tail --json -n 3")).stdout.splitlines()]
    assert len(newest) == 3
    assert newest[-1]["service"] == "session"
    assert newest[-1]["method"] == "/guardhouse.session.v1.PolicyService/CreatePolicy"
    assert int(newest[-1]["after_revision"]) == int(newest[-1]["before_revision"]) + 1

    installation = (await run_plane("audit tail --installation --service identity")).stdout
    assert "CreateOrganization" in installation


async def test_a_log_is_filtered_by_service_actor_method_and_object(
    run_plane: RunPlane, busy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backwards, in steps that grow, however long the log is."""
    monkeypatch.setattr(audit, "PAGE_SIZE", 2)
    one = cells((await run_plane("audit tail --service registry --method revokereg")).stdout)
    assert [line[4] for line in one] == ["RevokeRegistrations"]
    bob = cells((await run_plane("audit tail --service registry --method Register -n 2")).stdout)[0]
    assert cells((await run_plane(f"audit tail --service registry --object {bob[6].strip(',')}")).stdout) == [bob]
    people = cells((await run_plane("audit tail --actor user:")).stdout)
    assert people
    assert all(line[3].startswith("user:usr_") for line in people)
    assert not cells((await run_plane("audit tail --refused")).stdout)
    assert len(cells((await run_plane("audit tail --service registry --method Register -n 1")).stdout)) == 1


async def test_refused_calls_are_shown_with_their_reason(run_plane: RunPlane, busy: World, plane: Plane) -> None:
    gateway = await plane.stub(rpc.ApiKeyServiceStub).CreateApiKey(
        identity.CreateApiKeyRequest(
            organization_id=busy.organization_id, api_key=identity.ApiKey(display_name="Gateway", role=ROLE_GATEWAY)
        )
    )
    users = plane.stub(rpc.UserServiceStub, gateway.secret)
    with pytest.raises(errors.AccessDenied):
        await users.ListUsers(identity.ListUsersRequest(organization_id=busy.organization_id))
    (line,) = cells((await run_plane("audit tail --refused")).stdout)
    assert line[3:6] == [f"key:{gateway.api_key.api_key_id}", "ListUsers", "access-denied"]


async def test_following_shows_what_comes(
    run_plane: RunPlane, busy: World, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the test's process the loop of the plane is at hand, so the pause is where something happens."""
    loop = asyncio.get_running_loop()
    happenings: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: busy.policy("1h"),
        lambda: plane.stop("session"),
        lambda: plane.start("session"),
    ]

    def pause() -> None:
        if not happenings:
            raise KeyboardInterrupt
        asyncio.run_coroutine_threadsafe(happenings.pop(0)(), loop).result(30)

    monkeypatch.setattr(audit, "pause", pause)
    monkeypatch.setattr(audit, "POLL_SECONDS", 0)
    result = await run_plane("audit tail --follow --method CreatePolicy", exit_code=130)
    assert [line[4] for line in cells(result.stdout)] == ["CreatePolicy", "CreatePolicy"]
    assert "session at" in result.stderr
    assert "cannot be reached" in result.stderr


async def keep_checkpoints(run_plane: RunPlane) -> None:
    shown = (await run_plane("audit checkpoint")).stdout
    await asyncio.to_thread(Path("kept.jsonl").write_text, shown)


async def key_of(run_plane: RunPlane) -> str:
    line = (await run_plane("audit checkpoint --service session")).stdout
    return str(json.loads(line)["public_key"])


def removed(tx: Transaction, log: sa.ColumnElement[bool]) -> None:
    tx.execute(audit_record.delete().where(log, audit_record.c.sequence == 2))


def changed(tx: Transaction, log: sa.ColumnElement[bool]) -> None:
    second = sa.and_(log, audit_record.c.sequence == 2)
    record = AuditRecord.FromString(tx.execute(sa.select(audit_record.c.payload).where(second)).scalar_one())
    record.actor = "key:key_of_somebody_else"
    tx.execute(audit_record.update().where(second).values(payload=record.SerializeToString()))


def cut_off(tx: Transaction, log: sa.ColumnElement[bool]) -> None:
    tx.execute(audit_record.delete().where(log, audit_record.c.sequence > 2))


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the services of a plane that starts later export their checkpoints."""
    folder = tmp_path / "exported"
    monkeypatch.setenv("GUARDHOUSE_AUDIT_FOLDER", str(folder))
    monkeypatch.setenv("GUARDHOUSE_AUDIT_SECONDS", "0.05")
    return folder


async def test_logs_that_are_whole_are_said_to_be(exported: Path, run_plane: RunPlane, busy: World) -> None:
    """Against what the services export, and what somebody has fetched."""

    def all_four() -> None:
        while len(list(exported.glob("*.jsonl"))) < 4:
            time.sleep(0.05)

    await asyncio.to_thread(all_four)
    await keep_checkpoints(run_plane)
    await busy.policy("1h")
    trusting = await run_plane("audit verify")
    assert "taken on trust" in trusting.stderr
    assert "No checkpoint was kept of identity, registry, ipam, session:" in trusting.stderr
    key = await key_of(run_plane)
    assert trusting.stderr.splitlines()[-1] == f"  guardhouse audit verify --public-key {key}"

    verify = f"audit verify --checkpoints {exported} --checkpoints kept.jsonl --public-key"
    result = await run_plane(f"{verify} {key}")
    rows = {line[0]: line[1:] for line in cells(result.stdout)}
    assert set(rows) == {"identity", "registry", "ipam", "session"}
    # At least one that was exported, and the one that was fetched.
    assert all(int(checkpoints) >= 2 and log == "whole" for _, checkpoints, log in rows.values())
    assert int(rows["registry"][0]) >= 4
    assert result.stderr == ""

    found = json.loads((await run_plane(f"{verify} {key} --json")).stdout)
    assert (found["public_key"], found["public_key_pinned"]) == (key, True)
    assert [service["faults"] for service in found["services"]] == [[], [], [], []]
    (of_installation, *_) = cells((await run_plane("audit verify --installation")).stdout)
    assert int(of_installation[1]) > 0
    forged = (await run_plane(f"{verify} {'00' * 32}", exit_code=1)).stdout
    assert "a checkpoint's signature is not of this key" in forged


TAMPERS = [
    (removed, 2, "record 2 is missing; 3 stands in its place"),
    (changed, 2, "record 2 is not the one that was written"),
    (cut_off, 3, "the log ends at 2, and a checkpoint knows 4 records"),
]


async def test_whatever_was_done_to_a_log_is_found(run_plane: RunPlane, busy: World, plane: Plane) -> None:
    await keep_checkpoints(run_plane)
    verify = f"audit verify --checkpoints kept.jsonl --public-key {await key_of(run_plane)}"
    log = audit_record.c.organization_id == busy.organization_id
    database = plane.nodes["registry"].database

    def read(tx: Transaction) -> list[dict[str, Any]]:
        return [row._asdict() for row in tx.execute(sa.select(audit_record))]

    intact = await database.read(read)

    def restore(tx: Transaction) -> None:
        tx.execute(audit_record.delete())
        for row in intact:
            tx.execute(audit_record.insert().values(row))

    for tamper, sequence, what in TAMPERS:
        await database.write(partial(tamper, log=log))
        assert f"registry  {sequence}         {what}" in (await run_plane(verify, exit_code=1)).stdout
        services = json.loads((await run_plane(f"{verify} --json", exit_code=1)).stdout)["services"]
        faults = {service["service"]: service["faults"] for service in services}
        assert {"sequence": sequence, "message": what} in faults.pop("registry")
        assert not any(faults.values())
        await database.write(restore)
    await run_plane(verify)


async def test_another_history_is_told_from_the_one_that_was_signed(
    run_plane: RunPlane, busy: World, plane: Plane
) -> None:
    """After a restore the epoch is another one, also where the records happen to be the same."""
    await keep_checkpoints(run_plane)
    await plane.stop("session")
    restored = Database(plane.settings.database("session"), plane.clock, "session", session.Change)
    await restored.write(new_epoch)
    restored.close()
    await plane.start("session")
    said = await run_plane("audit verify --checkpoints kept.jsonl", exit_code=1)
    assert "a checkpoint is of the epoch" in said.stdout
    assert "restored from a backup" in said.stderr


def test_what_is_no_checkpoint_or_key_is_named(run: Run, tmp_path: Path) -> None:
    for line in ("[]", "{}", '"service"', '{"service": "sesion"}'):
        (tmp_path / "kept.jsonl").write_text(f'{{"service": "session"}}\n{line}\n')
        said = words(run("audit verify --checkpoints kept.jsonl", exit_code=2).stderr)
        assert "line 2 of kept.jsonl is of no service" in said
    assert "none.jsonl: No such file" in run("audit verify --checkpoints none.jsonl", exit_code=1).stderr
    assert "64 hexadecimal digits" in words(run("audit verify --public-key 00ff", exit_code=2).stderr)


PRIVATE = bytes(range(32))


def signed(sequence: int = 0, epoch: str = "e") -> AuditCheckpoint:
    """Of the session's log."""
    checkpoint = AuditCheckpoint(
        service="session", organization_id=ORGANIZATION, epoch=epoch, sequence=sequence, hash=FIRST
    )
    sign(checkpoint, PRIVATE)
    return checkpoint


def answer_with(installation: ScriptedServer, *records: AuditRecord) -> None:
    """A log that holds these, whatever its service."""
    installation.answers["GetAuditCheckpoint"] = session.GetAuditCheckpointResponse(
        checkpoint=signed(len(records)), public_key=public_key(PRIVATE)
    )
    installation.answers["ListAuditRecords"] = session.ListAuditRecordsResponse(records=records)


VERIFY = f"audit verify --public-key {public_key(PRIVATE).hex()} --service session"


@pytest.mark.parametrize("lines", ["", "null\n7\n"])
def test_checkpoints_that_are_none_do_not_count_as_kept(
    run: Run, installation: ScriptedServer, tmp_path: Path, lines: str
) -> None:
    """I-33: a log that was cut off would be said to be whole."""
    answer_with(installation)
    (tmp_path / "folder").mkdir()
    (tmp_path / "kept.jsonl").write_text(lines)
    for path in ("folder", "kept.jsonl"):
        said = words(run(f"{VERIFY} --checkpoints {path}", exit_code=2).stderr)
        assert f"{path} holds no checkpoint" in said
    assert not installation.requests("GetAuditCheckpoint")


def test_what_an_exporter_that_crashed_has_left_of_a_line_is_passed_over(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    answer_with(installation)
    whole = json.dumps(output.as_dict(signed())).encode()
    (tmp_path / "kept.jsonl").write_bytes(b"\n".join([whole, whole[:40], b"null", b"7", b"\xff\x00", whole, b""]))
    result = run(f"{VERIFY} --checkpoints kept.jsonl")
    assert cells(result.stdout) == [["session", "0", "2", "whole"]]
    assert [line.split(" is no checkpoint")[0] for line in result.stderr.splitlines()] == [
        f"line {number} of kept.jsonl" for number in range(2, 6)
    ]


def test_a_log_of_which_no_checkpoint_was_kept_is_named(run: Run, installation: ScriptedServer, tmp_path: Path) -> None:
    answer_with(installation)
    (tmp_path / "kept.jsonl").write_text(json.dumps(output.as_dict(signed())))
    result = run(f"{VERIFY} --service ipam --checkpoints kept.jsonl")
    assert cells(result.stdout) == [["session", "0", "1", "whole"], ["ipam", "0", "0", "whole"]]
    assert result.stderr.startswith("No checkpoint was kept of ipam: ")


def test_a_log_that_was_tampered_with_cannot_steer_the_terminal(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    answer_with(installation, AuditRecord(sequence=1, actor="key:\x1b[2J", objects=["\x1b]0;x\x07"]))
    (tmp_path / "kept.jsonl").write_text(json.dumps(output.as_dict(signed(epoch="\x1b[2J"))))
    for line, code in (("audit tail --service session", 0), (f"{VERIFY} --checkpoints kept.jsonl", 1)):
        shown = run(line, exit_code=code).stdout
        assert "\ufffd[2J" in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("failing", ["another service", "another page"])
def test_what_came_is_shown_although_more_of_it_is_out_of_reach(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rounds = iter([True, True, False])
    down = False

    def pause() -> None:
        nonlocal down
        down = not down
        if not next(rounds):
            raise KeyboardInterrupt

    def answer(request: Any) -> Message:
        of_session, another_page = isinstance(request, session.ListAuditRecordsRequest), bool(request.page_token)
        if down and (another_page if failing == "another page" else not of_session):
            raise errors.ServiceUnavailable("it is restarted")
        if not of_session:
            return identity.ListAuditRecordsResponse()
        records = [AuditRecord(sequence=number, method=f"/S/Call{number}") for number in (1, 2)]
        found = [record for record in records if record.sequence > request.after_sequence][: 1 if down else 2]
        return session.ListAuditRecordsResponse(
            records=found, next_page_token="more" if down and failing == "another page" else ""
        )

    answer_with(installation)
    installation.answers["ListAuditRecords"] = answer
    monkeypatch.setattr(audit, "pause", pause)
    result = run("audit tail --follow --service identity --service session", exit_code=130)
    assert [word for word in result.stdout.split() if word.startswith("Call")] == ["Call1", "Call2"]
    assert result.stderr.count("it is restarted") == 1
