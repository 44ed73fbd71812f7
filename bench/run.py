"""What every measurement is given: planes that are loaded already, the size of the run, and a progress bar to move."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench import loaders
from bench.plane import POSTGRESQL, Plane
from bench.postgresql import PostgreSQL
from demo.issuer import Issuer, Person

HUGE, LARGE, SMALL = 1_000_000, 100_000, 1_000
QUICK_HUGE, QUICK_LARGE, QUICK_SMALL, QUICK_PAIRS, QUICK_SHARE = 4_000, 2_000, 200, 3, 10


@dataclass
class Bench:
    """One run. A quick one only shows that everything works: its figures mean nothing."""

    quick: bool
    only: tuple[str, ...] = ("",)
    """What the names of the wanted figures begin with."""
    say: Callable[[str, int], None] = lambda _what, _steps: None
    """Begins a part of the run: what it does, in how many steps."""
    tick: Callable[[], None] = lambda: None
    """One step is done."""
    issuer: Issuer = field(init=False)
    postgresql_version: str = ""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _loaded: dict[tuple[str, int], tuple[Plane, list[str]]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.issuer = self._stack.enter_context(Issuer([Person("alice@example.com")]))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wants(self, *names: str) -> bool:
        """Whether one of these figures is wanted."""
        return any(name.startswith(self.only) for name in names)

    @property
    def huge(self) -> int:
        """Registrations of the plane that is as large as an installation gets."""
        return QUICK_HUGE if self.quick else HUGE

    @property
    def large(self) -> int:
        """Registrations of the loaded plane."""
        return QUICK_LARGE if self.quick else LARGE

    @property
    def small(self) -> int:
        """Registrations of the plane that it is compared with."""
        return QUICK_SMALL if self.quick else SMALL

    def pairs(self, count: int) -> int:
        return QUICK_PAIRS if self.quick else count

    def size(self, count: int) -> int:
        """Of a sample."""
        return max(count // QUICK_SHARE, 1) if self.quick else count

    def folder(self) -> Path:
        """One that goes with the run. Its path is short, for a socket's may have at most 107 bytes."""
        made = Path(tempfile.mkdtemp(prefix="gh"))
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    def server(self) -> PostgreSQL:
        """A PostgreSQL server that stops with the run."""
        server = PostgreSQL(self.folder())
        self._stack.callback(server.stop)
        self.postgresql_version = server.version
        return server

    async def loaded(self, engine: str, count: int) -> tuple[Plane, list[str]]:
        """A plane that has so many registrations, and their ids. It is stopped: `async with` starts it."""
        key = (engine, count)
        if key not in self._loaded:
            # A server of its own, so that what its processes use is this plane's.
            plane = Plane(self.folder(), self.issuer, self.server() if engine == POSTGRESQL else None)
            async with plane:
                pass
            self.say(f"loading {count:,} registrations, {engine}", loaders.parts(count))
            place = loaders.Place(plane.organization_id, self.issuer.url)
            self._loaded[key] = plane, loaders.load(plane.settings, place, count, self.tick)
            if plane.server is not None:
                for name in plane.databases.values():
                    plane.server.tidy(name)
        return self._loaded[key]
