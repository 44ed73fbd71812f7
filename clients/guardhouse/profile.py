"""A profile: a small TOML file that says where an installation answers and what to call it with.

    identity = "127.0.0.1:7401"
    registry = "127.0.0.1:7402"
    ipam = "127.0.0.1:7403"
    session = "127.0.0.1:7404"
    ca = "tls/ca.crt"
    key_file = "keys/admin.key"
    organization_id = "org_0198c0de5a3c7f1e8a2b4c6d8e0f1234"

Every entry may be left out. Paths are relative to the file. Without `ca` the system's authorities are trusted, and
without `organization_id` each call names its own. A device's own has `registration_id`, too; and for its agent
`gateway_public_key` and `gateway_endpoint` (`gateway.example.com:51820`) say whom its tunnel leads to.
"""

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SERVICES: Final = ("identity", "registry", "ipam", "session")
PROFILE_VARIABLE: Final = "GUARDHOUSE_PROFILE"
KEY_VARIABLE: Final = "GUARDHOUSE_API_KEY"
DEFAULT_PATH: Final = Path("var/client.toml")
_TEXTS: Final = (*SERVICES, "organization_id", "registration_id", "gateway_public_key", "gateway_endpoint")
_PATHS: Final = ("ca", "key_file")


class ProfileInvalid(ValueError):
    """What is known of the installation does not suffice, or cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Where an installation answers, and what to call it with. The key is in no representation."""

    identity: str = ""
    registry: str = ""
    ipam: str = ""
    session: str = ""
    ca: Path | None = None
    """Certificates of the authorities to trust, in PEM. None: the system's."""
    key_file: Path | None = None
    """A file that holds the API key, and nothing else."""
    organization_id: str = ""
    registration_id: str = ""
    """Whose token the key is, in a device's own profile."""
    gateway_public_key: str = ""
    """WireGuard's, of the gateway that a device's tunnel leads to, in base64."""
    gateway_endpoint: str = ""
    """Where that gateway is: HOST:PORT."""
    key: str = field(default="", repr=False)
    """The API key or registration token. It is read from the environment or key_file and never written."""

    def address(self, service: str) -> str:
        """Raises ProfileInvalid when it is not known."""
        address: str = getattr(self, service)
        if not address:
            raise ProfileInvalid(
                f"the address of {service} is not known: name it in the profile ({PROFILE_VARIABLE}, or {DEFAULT_PATH}"
                " as `make run` writes it)"
            )
        return address

    def certificates(self) -> bytes | None:
        """What to verify servers with. Raises ProfileInvalid when it cannot be read."""
        return _read(self.ca, "ca") if self.ca else None

    def write(self, path: Path) -> None:
        """Writes everything but the key, for `find` to read."""
        path.write_text(self.rendered(path.parent), encoding="utf-8")

    def rendered(self, folder: Path) -> str:
        """Everything but the key, as a file in that folder has it."""
        folder = folder.absolute()
        lines = []
        for name in (*_TEXTS, *_PATHS):
            if value := getattr(self, name):
                text = os.path.relpath(value, folder) if isinstance(value, Path) else value
                # A JSON string is one of TOML's basic strings.
                lines.append(f"{name} = {json.dumps(text, ensure_ascii=False)}\n")
        return "".join(lines)


def find(path: str | Path | None = None, key: str | None = None) -> Profile:
    """The profile at the path, else the one that GUARDHOUSE_PROFILE names, else ./var/client.toml, else an empty one.

    The key is the one that is given, else that of GUARDHOUSE_API_KEY, else what key_file holds. Raises ProfileInvalid.
    """
    named = path or os.environ.get(PROFILE_VARIABLE) or (DEFAULT_PATH if DEFAULT_PATH.exists() else None)
    found = load(Path(named)) if named else Profile()
    if key is None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key and found.key_file:
            key = _read(found.key_file, "key_file").decode(errors="replace")
    return dataclasses.replace(found, key=_checked(key))


def load(path: Path) -> Profile:
    """What the file says, without a key. Raises ProfileInvalid."""
    content = _read(path, "profile")
    try:
        entries = tomllib.loads(content.decode())
    except ValueError as error:
        raise ProfileInvalid(f"{path} is not a profile: {error}") from None
    known = {*_TEXTS, *_PATHS}
    for name, value in entries.items():
        if name not in known:
            raise ProfileInvalid(f"{path}: there is no entry {name!r}; the entries are {', '.join(sorted(known))}")
        if not isinstance(value, str):
            raise ProfileInvalid(f"{path}: {name} is a string")
    # An absolute path stays as it is.
    paths = {name: path.parent / entries.pop(name) for name in _PATHS if entries.get(name)}
    return Profile(**entries, **paths)


def _checked(key: str) -> str:
    """A key without the white space around it. Raises ProfileInvalid for one that no header can carry."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ProfileInvalid("the API key holds characters that no key has; was something else pasted?")
    return key


def _read(path: Path, entry: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProfileInvalid(f"{entry} {path} cannot be read: {(error.strerror or str(error)).lower()}") from None
