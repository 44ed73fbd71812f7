"""Pauses of the collector."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from guardhouse.collecting import keep_pauses_short


@dataclass(eq=False)
class Thing:
    other: "Thing | None" = None


@pytest.fixture
def short() -> Iterator[None]:
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    keep_pauses_short()
    keep_pauses_short()
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("short")
def test_what_outlives_a_full_collection_is_looked_at_no_more() -> None:
    things = [Thing() for _ in range(100_000)]
    gc.collect()
    assert not gc.get_objects(generation=2)
    assert gc.get_freeze_count() > len(things)


@pytest.mark.usefixtures("short")
def test_a_full_collection_comes_before_there_is_much_to_look_at() -> None:
    seen: list[int] = []
    gc.callbacks.append(lambda phase, about: seen.append(_many()) if phase == "start" else None)
    things = [Thing() for _ in range(300_000)]
    assert len(things) > 5 * max(seen) > 0


@pytest.mark.usefixtures("short")
def test_garbage_in_a_cycle_is_found_while_it_is_young() -> None:
    thing = Thing()
    thing.other = thing
    gone = weakref.ref(thing)
    gc.collect(1)
    del thing
    gc.collect()
    assert gone() is None


def _many() -> int:
    return len(gc.get_objects(generation=2)) + len(gc.get_objects(generation=1))
