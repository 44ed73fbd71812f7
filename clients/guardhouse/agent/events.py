"""The events of a machine: JSON lines over a Unix socket, by which whoever watches its desk drives the agent.

    {"event": "log-in", "user": "PC\\\\ada"}      also log-out, switch, and lock, which needs no user
    {"event": "sign-in", "user": "PC\\\\ada", "id_token": "eyJ..."}

Each is answered by a line: who is current, and whether whoever is at the desk is to be asked to register; or an
`error`. Only the user who runs the agent can open the socket.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from guardhouse.agent.agent import Agent, EventInvalid
from guardhouse.agent.folder import FolderUnusable
from guardhouse.os_sessions import OsEvent

SOCKET: Final = "agent.sock"
LINE_BYTES: Final = 64 << 10
"""The longest line; an ID token is some thousands of bytes."""
CONNECTIONS: Final = 16
EVENTS: Final = {event.name.lower().replace("_", "-"): event for event in OsEvent}
SIGN_IN: Final = "sign-in"
MAX_USER: Final = 255
ANSWER_SECONDS: Final = 10.0


@contextlib.asynccontextmanager
async def listening(agent: Agent, path: Path) -> AsyncIterator[None]:
    """Takes events as long as it is entered. Raises FolderUnusable. Whoever enters it has the agent's lock."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240  # what an agent that was killed has left
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(serving) >= CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(_serve(agent, reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(connected, path, limit=LINE_BYTES)
    except OSError as error:
        raise FolderUnusable(
            f"{path} cannot be a socket ({str(error).lower()}): name a folder with a short path with --state"
        ) from None
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        path.unlink(missing_ok=True)  # noqa: ASYNC240


async def _serve(agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(json.dumps(take(agent, line)).encode() + b"\n")
            await writer.drain()
    except (OSError, ValueError):  # It has gone, or sends a line that never ends.
        pass
    finally:
        writer.close()


def take(agent: Agent, line: bytes) -> dict[str, Any]:
    """The answer to one event."""
    try:
        event = _event(line)
        user = _text(event, "user", MAX_USER)
        if event.get("event") == SIGN_IN:
            id_token = _text(event, "id_token", LINE_BYTES)
            if not id_token:
                raise EventInvalid("it needs the id_token")
            agent.sign_in(user, id_token)
        elif (found := EVENTS.get(str(event.get("event")))) is not None:
            agent.hear(found, user)
        else:
            raise EventInvalid(f"the event is one of {', '.join([*EVENTS, SIGN_IN])}")
    except EventInvalid as error:
        return {"error": str(error)}
    current = agent.current
    return {
        "current_registration_id": current.kept.registration_id if current and current.kept else "",
        "asks_to_register": agent.asks_to_register,
    }


async def tell(path: Path, event: Mapping[str, str]) -> dict[str, Any]:
    """Sends one event to the agent that listens there; its answer. Raises EventInvalid, and OSError when none does."""
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
        try:
            writer.write(json.dumps(event).encode() + b"\n")
            answer = json.loads(await reader.readline() or b'{"error": "the agent has hung up"}')
        finally:
            writer.close()
    if "error" in answer:
        raise EventInvalid(answer["error"])
    return dict(answer)


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise EventInvalid("an event is an object of JSON on a line of its own")
    return event


def _text(event: Mapping[str, Any], name: str, most: int) -> str:
    value = event.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise EventInvalid(f"{name} is a string of at most {most} characters")
    return value
