"""Named lists: where their values come from, and changing some of them."""

from pathlib import Path

import pytest

from guardhouse.errors import EtagMismatch
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import Run, words
from tests.guardhouse.scripted import ScriptedServer


@pytest.fixture
def lists(installation: ScriptedServer) -> ScriptedServer:
    kept = session.List(list_id="lst_1", name="wiki", values=["a.example", "b.example", "c.example"], etag="now")
    installation.answers["GetList"] = session.GetListResponse(list=kept)
    installation.answers["CreateList"] = session.CreateListResponse()
    installation.answers["UpdateList"] = session.UpdateListResponse()
    return installation


def test_values_come_from_the_line_from_a_file_or_from_a_pipe(run: Run, lists: ScriptedServer, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("  a.example\n\nb.example\r\n")
    run(f"lists create one --type host z.example --file {hosts}")
    run("lists create two --type text --file -", stdin="two words\n")
    run("lists create three --type integer")
    found = [list(request.list.values) for request in lists.requests("CreateList")]
    assert found == [["z.example", "a.example", "b.example"], ["two words"], []]


def test_values_are_added_and_taken_out_of_what_was_read(run: Run, lists: ScriptedServer) -> None:
    """With its etag, so that nobody else's change is undone (AIP-154)."""
    run("lists update lst_1 --add d.example a.example")
    assert "Not in it: x.example." in run("lists update lst_1 --remove b.example x.example").stderr
    run("lists update lst_1 --replace --file - --description Pages", stdin="e.example")
    requests = lists.requests("UpdateList")
    found = [[value.partition(".")[0] for value in request.list.values] for request in requests]
    # A value that is there twice is kept once, by the server.
    assert found == [["a", "b", "c", "d", "a"], ["a", "c"], ["e"]]
    assert {request.list.etag for request in requests} == {"now"}
    assert [list(request.update_mask.paths) for request in requests] == [
        ["values"],
        ["values"],
        ["description", "values"],
    ]
    lists.answers["UpdateList"] = EtagMismatch("somebody has changed it meanwhile")
    assert "ETAG_MISMATCH" in run("lists update lst_1 --add d.example --etag mine", exit_code=1).stderr
    assert lists.requests("UpdateList")[-1].list.etag == "mine"


@pytest.mark.parametrize(
    "line", ["a.example", "--add", "--remove", "--replace", "--add --remove a.example", "", "--file - --name x"]
)
def test_what_becomes_of_the_values_must_be_clear(run: Run, lists: ScriptedServer, line: str) -> None:
    assert words(run(f"lists update lst_1 {line}", exit_code=2, stdin="a.example").stderr)
    assert not lists.calls


def test_a_deletion_says_what_goes(run: Run, lists: ScriptedServer) -> None:
    gone = session.List(name="wiki", value_count=3, etag="now")
    lists.answers["DeleteList"] = session.DeleteListResponse(list=gone)
    assert run("lists delete lst_1 --dry-run").stdout == "This deletes $wiki with 3 values.\n"
    (request,) = lists.requests("DeleteList")
    assert request.validate_only
