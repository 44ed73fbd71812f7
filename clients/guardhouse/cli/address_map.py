"""The fill of a subnet, drawn in a terminal: a cell for a block of addresses."""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from guardhouse.cli import output
from guardhouse.ipam.v1 import ipam_pb2 as pb

STATES: Final = {
    "active": "green",
    "revoked": "yellow",
    "reserved": "cyan",
    "quarantined": "magenta",
    "pinned": "blue",
    "free": "bright_black",
}
"""What an address may be, and the colour of a block that has most of that."""
SHADES: Final = "\N{MIDDLE DOT}\N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}\N{FULL BLOCK}"
"""Nothing of the block is taken, up to a third, up to two thirds, more, all of it."""
WIDTHS: Final = (64, 32, 16)
MARGIN: Final = 18
"""An IPv4 address and some air."""


def draw(found: pb.GetAddressMapResponse, console: Console) -> None:
    """Rows of cells with the first address of each, and what they mean."""
    for line in lines(found, console.width):
        console.print(line, soft_wrap=True)


def lines(found: pb.GetAddressMapResponse, width: int) -> Iterator[Text]:
    first = int(ipaddress.IPv4Network(found.network).network_address)
    per_row = next((each for each in WIDTHS if each + MARGIN <= width), WIDTHS[-1])
    yield Text(f"{found.network}, {output.count(found.block_size, 'address')} a cell")
    for start in range(0, len(found.blocks), per_row):
        row = Text(f"{ipaddress.IPv4Address(first + start * found.block_size)!s:<{MARGIN}}")
        for block in found.blocks[start : start + per_row]:
            row.append(*_cell(block))
        yield row
    totals = total(found)
    legend = Text()
    for state, style in STATES.items():
        legend.append("\N{FULL BLOCK}" if state != "free" else SHADES[0], style)
        legend.append(f" {state} {totals[state]}   ")
    legend.rstrip()
    yield legend


def total(found: pb.GetAddressMapResponse) -> Counter[str]:
    """How many addresses are what, in all blocks."""
    totals: Counter[str] = Counter()
    for block in found.blocks:
        totals.update({state: getattr(block, state) for state in STATES})
    return totals


def _cell(block: pb.AddressBlock) -> tuple[str, str]:
    """A shade for the share that is taken, in the colour of what most of that is."""
    counts = {state: getattr(block, state) for state in STATES}
    size = sum(counts.values())
    taken = size - block.free
    if not taken:
        return SHADES[0], STATES["free"]
    shade = len(SHADES) - 1 if taken == size else min(1 + 3 * taken // size, len(SHADES) - 2)
    most = max((state for state in STATES if state != "free"), key=counts.__getitem__)
    return SHADES[shade], STATES[most]
