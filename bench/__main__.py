"""`make bench`: measures what Guardhouse promises about its speed, prints a table, and writes build/bench.json."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import grpc
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import (
    allocation,
    authorizations,
    calls,
    churn,
    devices,
    direct,
    edits,
    embedded,
    enrollments,
    feeds,
    gates,
    revocation,
    seats,
    traffic,
    wireguard,
)
from bench.figure import Figure, Unsteady, shown
from bench.machine import describe
from bench.run import Bench
from guardhouse.collecting import keep_pauses_short
from guardhouse.errors import GuardhouseError

# In this order: what wants a calm machine comes first, and what enrolls thousands last.
MEASUREMENTS = (
    *(calls, traffic, edits, embedded, feeds, authorizations, enrollments, allocation, churn, seats),
    devices,
    *(revocation, gates, wireguard, direct),
)
FAILURES = (Unsteady, GuardhouseError, grpc.RpcError, TimeoutError, RuntimeError)
NAMES = [name for module in MEASUREMENTS for name in module.NAMES]

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def run(
    only: Annotated[str, typer.Option(help="Measure the figures whose names begin so; several with commas.")] = "",
    quick: Annotated[bool, typer.Option(help="Only show that everything works; the figures mean nothing.")] = False,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Path("build/bench.json"),
) -> None:
    """Measure the speed of Guardhouse."""
    beginnings = tuple(part.strip() for part in only.split(","))
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in NAMES):
            raise typer.BadParameter(f"{beginning!r} begins none of {', '.join(NAMES)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        about = describe(Path(folder))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        bench = Bench(quick, beginnings)
        figures, missing = uvloop.run(_measure(bench, progress))
    about |= {"PostgreSQL": bench.postgresql_version or "not used"}
    seconds = round(time.monotonic() - began)
    _print(figures, about, seconds, quick)
    _write(output, figures, about, seconds, quick)
    if missing:
        console.print("Not measured: " + "; ".join(missing), markup=False)
        raise typer.Exit(1)


async def _measure(bench: Bench, progress: Progress) -> tuple[list[Figure], list[str]]:
    """The figures, and what could not be measured, with the reason."""
    task: TaskID | None = None
    began = time.monotonic()

    def say(what: str, steps: int) -> None:
        nonlocal task
        task = progress.add_task(what, total=steps)
        if not progress.console.is_terminal:
            # A file shows no bar before the end.
            progress.console.print(f"{time.monotonic() - began:.0f} s: {what}")

    def tick() -> None:
        if task is not None:
            progress.advance(task)

    bench.say, bench.tick = say, tick
    # As in a service: what is measured in this process is not to pay for what the harness holds.
    keep_pauses_short()
    figures: list[Figure] = []
    missing: list[str] = []
    with bench:
        for module in MEASUREMENTS:
            if bench.wants(*module.NAMES):
                try:
                    figures += await module.measure(bench)
                except FAILURES as error:
                    # The others are worth having all the same.
                    wanted = ", ".join(filter(bench.wants, module.NAMES))
                    missing.append(f"{wanted}: {error!r}")
                # Dirty pages of one measurement are not the next one's to write.
                await asyncio.to_thread(os.sync)
    return [figure for figure in figures if bench.wants(figure.name)], missing


def _print(figures: Sequence[Figure], about: dict[str, str], seconds: int, quick: bool) -> None:
    table = Table("name", "figure", "target", "", "spread", "absolute", box=None, header_style="bold")
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target.sign} {shown(figure.target.bound, figure.unit)}"
        spread = " to ".join(shown(value, figure.unit) for value in figure.quartiles)
        absolute = "; ".join(f"{what} {value}" for what, value in figure.absolute.items())
        style = {"met": "green", "missed": "red"}.get(figure.verdict, "")
        mark = f"[{style}]{figure.verdict}[/{style}]" if style else ""
        table.add_row(figure.name, shown(figure.value, figure.unit), target, mark, spread, absolute)
    console.print(table)
    console.print("\n" + ", ".join(f"{what} {value}" for what, value in about.items()) + f"; {seconds} s")
    if quick:
        console.print("A quick run shows that everything works; its figures mean nothing.")


def _write(output: Path, figures: Sequence[Figure], about: dict[str, str], seconds: int, quick: bool) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
    whole = {"machine": about, "seconds": seconds, "quick": quick, "figures": rows}
    output.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(run)
