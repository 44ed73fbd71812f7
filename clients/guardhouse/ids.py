"""Ids: a prefix that names the kind, and a UUIDv7 (RFC 9562, section 5.7), as in reg_0198c0de5a3c7f1e8a2b4c6d8e0f1234.

The prefix keeps a device's id from passing for a registration's (decision 14), and the time in front keeps new rows
together in an index. An id is a name and no secret: whoever knows one may do nothing with it.
"""

import re
import secrets
from typing import Final

from guardhouse.errors import FieldRequired, InvalidField

ORGANIZATION: Final = "org"
USER: Final = "usr"
API_KEY: Final = "key"
IDENTITY_PROVIDER: Final = "idp"
SERVICE_TOKEN: Final = "svt"
ENROLLMENT_POLICY: Final = "enp"
REMOVAL: Final = "rmv"
DEVICE: Final = "dev"
REGISTRATION: Final = "reg"
DEVICE_PROFILE: Final = "dpr"
LEASE: Final = "lse"
SUBNET: Final = "sub"
PIN: Final = "pin"
IP_PROFILE: Final = "ipp"
POLICY: Final = "pol"
LIST: Final = "lst"
APPLICATION: Final = "app"
SIGNING_KEY: Final = "sig"
RULE_GROUP: Final = "rgp"
HELD_ACTION: Final = "hld"
SCIM_USER: Final = "scu"
SCIM_GROUP: Final = "scg"
SCIM_EVENT: Final = "sce"

_DIGITS: Final = re.compile(r"[0-9a-f]{32}")


def new_id(prefix: str, now: int) -> str:
    """Make an id at the time `now`, in microseconds since the Unix epoch.

    Ids with one prefix sort by that time, to the microsecond: its milliseconds lead, and the 12 bits after the version
    hold the rest of it (RFC 9562, section 6.2, method 3). The last 62 bits are random. Raises OverflowError for a time
    that 48 bits of milliseconds cannot hold.
    """
    milliseconds, microseconds = divmod(now, 1_000)
    time = milliseconds << 16 | 0x7000 | microseconds * 4096 // 1_000
    return f"{prefix}_{(time << 64 | 0b10 << 62 | secrets.randbits(62)).to_bytes(16, 'big').hex()}"


def default_profile_id(organization_id: str) -> str:
    """The id of an organization's default device profile, which is there before anybody has written it."""
    return f"{DEVICE_PROFILE}_{organization_id.partition('_')[2]}"


def check_id(value: str, prefix: str, field: str) -> str:
    """Return the value if it has the form of an id of this kind.

    Raises FieldRequired for an empty value and InvalidField for another form. The message never repeats the value,
    because what was pasted into the wrong field may be a secret.
    """
    if not value:
        raise FieldRequired(field)
    if not value.startswith(f"{prefix}_") or not _DIGITS.fullmatch(value, len(prefix) + 1):
        example = f"{prefix}_{'0123456789abcdef' * 2}"
        raise InvalidField(field, f"{field} is {prefix}_ and 32 lower-case hex digits, such as {example}")
    return value
