"""Python's collector, in a process that holds much for long.

A full collection looks at every object that could be in a cycle, which takes about a second for each million. What a
replica knows is in no cycle and goes when it is replaced, so looking at it again finds nothing.
"""

import gc
from typing import Any, Final

FULL: Final = 2
"""The generation of a full collection."""
MIDDLE: Final = 3
"""Collections of the middle generation between two full ones: so few that a full one has little to look at."""


def keep_pauses_short() -> None:
    """From now on no collection looks at what is there, nor at what has outlived a full collection.

    It is for whoever owns the process, once most of what will stay is loaded. What is in a cycle and outlives a full
    collection stays until the process ends.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, MIDDLE)
    if _freeze not in gc.callbacks:
        gc.callbacks.append(_freeze)


def _freeze(phase: str, about: dict[str, Any]) -> None:
    if phase == "stop" and about["generation"] == FULL:
        gc.freeze()
