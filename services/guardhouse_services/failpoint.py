"""Named places at which a test makes a process die, stall or fail.

`GUARDHOUSE_FAILPOINTS` arms them: `name=action` pairs with commas between them, where an action is `kill` (SIGKILL to
this process), `delay:<seconds>` or `raise`. A number in front, as in `name=3*kill`, lets it act on the third pass only.
Without the variable a failpoint costs one look into an empty dict.
"""

import os
import signal
import time


class FailpointRaised(Exception):
    """What `raise` raises."""


def _parse(text: str) -> dict[str, tuple[int, str]]:
    armed: dict[str, tuple[int, str]] = {}
    for pair in filter(None, text.split(",")):
        name, _, action = pair.partition("=")
        count, star, rest = action.partition("*")
        armed[name] = (int(count), rest) if star else (0, action)
        if armed[name][1] not in ("kill", "raise") and not armed[name][1].startswith("delay:"):
            raise ValueError(f"GUARDHOUSE_FAILPOINTS: {pair!r} is not name=kill, name=raise or name=delay:<seconds>")
    return armed


_armed = _parse(os.environ.get("GUARDHOUSE_FAILPOINTS", ""))
_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Does nothing, unless the environment or `arm` says otherwise. Blocks the thread for a delay, on purpose."""
    if name not in _armed:
        return
    _passed[name] = _passed.get(name, 0) + 1
    only, action = _armed[name]
    if only and _passed[name] != only:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise FailpointRaised(name)
    time.sleep(float(action.removeprefix("delay:")))


def arm(text: str) -> None:
    """Arms failpoints as the environment would, in place of what was armed; an empty text disarms all."""
    _armed.clear()
    _passed.clear()
    _armed.update(_parse(text))
