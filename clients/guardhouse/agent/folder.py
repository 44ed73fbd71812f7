"""What an agent keeps on disk: its registrations with their keys and tokens, and what it last said of itself.

A registration is kept as `guardhouse enroll` keeps it, as REGISTRATION.toml, .token and .key; beside them are the
request that made it (.request) and what the registry last said of it (.json). The profile is written last: what a crash
has left without one is no registration, and the request that is kept before it is sent is repeated.
"""

import base64
import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message import DecodeError

from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as registry

KEY_BYTES: Final = 32
SUFFIXES: Final = (".toml", ".token", ".key", ".key.new", ".request", ".json")
ENROLLING: Final = "enrolling"


class FolderUnusable(Exception):
    """What is kept cannot be used; the message says what to do."""


class FolderBusy(FolderUnusable):
    """Another agent has the folder."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A registration with its secrets, which are in no representation."""

    registration: registry.Registration
    configuration: registry.DeviceConfiguration
    token: str = field(repr=False)
    private_key: bytes = field(repr=False)
    request: registry.RegisterRequest = field(repr=False)
    """What made it. Repeated, it says what has become of it, whatever that is."""
    key_time: int
    """When its key was made, in microseconds since 1970 by the clock of this machine."""
    new_private_key: bytes | None = field(default=None, repr=False)
    """A key that is to replace the other, and perhaps has."""

    @property
    def registration_id(self) -> str:
        return self.registration.registration_id


class Folder:
    """Where an agent keeps what it has. Every file is written at once or not at all, and is its owner's only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other agents out. Raises FolderBusy, and FolderUnusable when it cannot be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderUnusable(
                f"{self.path} cannot be written to ({(error.strerror or str(error)).lower()}): run as the user whose it"
                " is, or name another with --state"
            ) from None
        with os.fdopen(descriptor, "r+") as file:
            if not _lock(descriptor):
                holder = file.read().strip()
                raise FolderBusy(
                    f"another agent has {self.path}{f' (process {holder})' if holder else ''}: stop it first, or name"
                    " another folder with --state"
                )
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    @property
    def is_locked(self) -> bool:
        """Whether an agent runs here."""
        try:
            descriptor = os.open(self.path / "agent.lock", os.O_RDWR)
        except OSError:
            return False
        with os.fdopen(descriptor):
            return not _lock(descriptor)

    # Registrations

    def registrations(self) -> list[Kept]:
        """Those that are kept, the oldest first. Raises FolderUnusable."""
        return [self._load(path) for path in sorted(self.path.glob("reg_*.toml"))]

    def keep(self, kept: Kept, profile: Profile) -> None:
        """Keeps a new registration."""
        stem = self._stem(kept.registration_id)
        self._write(stem, ".token", f"{kept.token}\n".encode())
        self._write(stem, ".key", _encoded(kept.private_key))
        self._write(stem, ".request", kept.request.SerializeToString())
        self.note(kept)
        own = replace(
            profile,
            key_file=stem.with_name(f"{stem.name}.token"),
            organization_id=kept.request.organization_id,
            registration_id=kept.registration_id,
        )
        self._write(stem, ".toml", own.rendered(self.path).encode())

    def note(self, kept: Kept) -> None:
        """Keeps what the registry last said of a registration, for when it cannot be asked."""
        said = registry.GetRegistrationResponse(registration=kept.registration, configuration=kept.configuration)
        known = {"key_time": kept.key_time, "answer": MessageToDict(said, preserving_proto_field_name=True)}
        self._write(self._stem(kept.registration_id), ".json", json.dumps(known).encode())

    def prepare(self, kept: Kept, private_key: bytes) -> None:
        """Keeps a key that is to replace the present one, before anybody is told of it."""
        self._write(self._stem(kept.registration_id), ".key.new", _encoded(private_key))

    def swap(self, kept: Kept) -> None:
        """Puts the new key into the place of the old, once that has ended."""
        stem = self._stem(kept.registration_id)
        stem.with_name(f"{stem.name}.key.new").replace(stem.with_name(f"{stem.name}.key"))
        self._sync()

    def forget(self, registration_id: str) -> None:
        """Drops what is kept of a registration that is gone."""
        for suffix in SUFFIXES:
            self._stem(registration_id).with_name(f"{registration_id}{suffix}").unlink(missing_ok=True)

    # Enrollments under way

    def intent(self, tag: str) -> tuple[bytes, registry.RegisterRequest] | None:
        """The private key and the request of an enrollment that was cut short. Raises FolderUnusable."""
        stem = self._stem(f"{ENROLLING}-{tag}")
        request = stem.with_name(f"{stem.name}.request")
        # It is written after the key, so one without it was never sent.
        if not request.exists():
            return None
        return self._key(stem.with_name(f"{stem.name}.key")), self._request(request)

    def intend(self, tag: str, private_key: bytes, request: registry.RegisterRequest) -> None:
        """Keeps an enrollment before it is asked for."""
        stem = self._stem(f"{ENROLLING}-{tag}")
        self._write(stem, ".key", _encoded(private_key))
        self._write(stem, ".request", request.SerializeToString())

    def settle(self, tag: str) -> None:
        """Drops an enrollment that has come to an end, whichever."""
        stem = self._stem(f"{ENROLLING}-{tag}")
        for suffix in (".request", ".key"):
            stem.with_name(f"{stem.name}{suffix}").unlink(missing_ok=True)

    # What is said

    def write_json(self, name: str, content: Any) -> None:
        self._write(self._stem(name), ".json", json.dumps(content, indent=2).encode())

    def read_json(self, name: str) -> Any:
        """None when there is none, or nothing that can be read."""
        try:
            return json.loads(self._stem(name).with_name(f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    # Files

    def _load(self, profile: Path) -> Kept:
        stem = profile.with_suffix("")
        known = self._known(profile.with_suffix(".json"), stem.name)
        new = stem.with_name(f"{stem.name}.key.new")
        return Kept(
            registration=known[0].registration,
            configuration=known[0].configuration,
            token=_secret(profile.with_suffix(".token")).decode().strip(),
            private_key=self._key(profile.with_suffix(".key")),
            request=self._request(profile.with_suffix(".request")),
            key_time=known[1],
            new_private_key=self._key(new) if new.exists() else None,
        )

    @staticmethod
    def _known(path: Path, registration_id: str) -> tuple[registry.GetRegistrationResponse, int]:
        try:
            known = json.loads(path.read_bytes())
            answer = Parse(json.dumps(known["answer"]), registry.GetRegistrationResponse(), ignore_unknown_fields=True)
            return answer, int(known["key_time"])
        except (FileNotFoundError, ValueError, TypeError, KeyError, ParseError):
            # The registry says it again.
            empty = registry.GetRegistrationResponse()
            empty.registration.registration_id = registration_id
            return empty, 0

    @staticmethod
    def _key(path: Path) -> bytes:
        content = _secret(path)
        try:
            private = base64.b64decode(content.strip(), validate=True)
        except ValueError:
            private = b""
        if len(private) != KEY_BYTES:
            raise FolderUnusable(
                f"{path} holds no private key (32 bytes in base64): put it back, or move {path.stem}.* out of"
                f" {path.parent} to enroll anew"
            )
        return private

    @staticmethod
    def _request(path: Path) -> registry.RegisterRequest:
        try:
            return registry.RegisterRequest.FromString(_secret(path))
        except DecodeError:
            raise FolderUnusable(f"{path} is damaged: move {path.stem}.* out of {path.parent} to enroll anew") from None

    def _stem(self, name: str) -> Path:
        return self.path / name

    def _write(self, stem: Path, suffix: str, content: bytes) -> None:
        target = stem.with_name(f"{stem.name}{suffix}")
        part = target.with_name(f"{target.name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _secret(path: Path) -> bytes:
    """What a file holds that only its owner may read. Raises FolderUnusable."""
    try:
        with path.open("rb") as file:
            if (mode := stat.S_IMODE(os.fstat(file.fileno()).st_mode)) & 0o077:
                raise FolderUnusable(
                    f"{path} can be read by others (mode {mode:04o}), who may have its secret: chmod 600 {path}, and if"
                    " somebody has read it have the registration deleted and enroll anew"
                )
            return file.read()
    except FileNotFoundError:
        raise FolderUnusable(
            f"{path} is missing: put it back, or move {path.stem}.* out of {path.parent} to enroll anew"
        ) from None
    except OSError as error:
        raise FolderUnusable(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()}): run as the user whose it is"
        ) from None


def _encoded(private_key: bytes) -> bytes:
    return base64.b64encode(private_key) + b"\n"


def _lock(descriptor: int) -> bool:
    """Whether the lock was free. It ends with the process, however that ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
