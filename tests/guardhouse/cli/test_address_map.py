"""The fill of a subnet is drawn as it is."""

import json

from rich.console import Console

from guardhouse.cli.address_map import SHADES, STATES, draw, lines
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from tests.guardhouse.cli.commands import ORGANIZATION, Run
from tests.guardhouse.scripted import ScriptedServer

EMPTY, LIGHT, MEDIUM, DARK, FULL = SHADES


def block(**counts: int) -> ipam.AddressBlock:
    return ipam.AddressBlock(**({"free": 16 - sum(counts.values())} | counts))


FOUND = ipam.GetAddressMapResponse(
    subnet_id="sub_1",
    network="10.9.8.0/24",
    block_size=16,
    blocks=[
        block(active=15, free=0),
        block(active=2, revoked=3),
        block(quarantined=6),
        block(pinned=11),
        block(reserved=16),
        block(active=15),
        *(block() for _ in range(9)),
        block(free=15),
    ],
)


def test_a_cell_is_as_dark_as_its_block_is_full_and_has_the_colour_of_most() -> None:
    _, row, legend = lines(FOUND, 80)
    assert row.plain == f"10.9.8.0          {FULL}{LIGHT}{MEDIUM}{DARK}{FULL}{DARK}{EMPTY * 10}"
    styles = [str(span.style) for span in row.spans][:7]
    wanted = ["active", "revoked", "quarantined", "pinned", "reserved", "active", "free"]
    assert styles == [STATES[state] for state in wanted]
    assert legend.plain.split()[1::3] == list(STATES)
    assert legend.plain.split()[2::3] == ["32", "3", "16", "6", "11", "186"]


def test_a_narrow_terminal_has_shorter_rows() -> None:
    many = ipam.GetAddressMapResponse(network="100.96.0.0/12", block_size=4096, blocks=[block() for _ in range(256)])
    for width, rows in ((200, 4), (81, 8), (49, 16), (20, 16)):
        drawn = list(lines(many, width))
        assert len(drawn) == rows + 2
        assert drawn[2].plain.startswith(f"100.{96 + 16 // rows}.0.0 ")


def test_without_a_terminal_the_shades_are_left() -> None:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        draw(FOUND, console)
    assert "\x1b" not in capture.get()
    assert FULL in capture.get()


def test_the_map_is_asked_for_as_large_as_is_said(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetAddressMap"] = FOUND
    said = run(f"addresses map --subnet sub_1 --cells 64 -o {ORGANIZATION}")
    assert "10.9.8.0/24, 16 addresses a cell" in said.stdout
    (request,) = installation.requests("GetAddressMap")
    assert (request.subnet_id, request.block_count) == ("sub_1", 64)
    shown = json.loads(run(f"addresses map --json -o {ORGANIZATION}").stdout)
    assert shown["blocks"][1] == {
        "active": "2",
        "revoked": "3",
        "reserved": "0",
        "quarantined": "0",
        "pinned": "0",
        "free": "11",
    }
