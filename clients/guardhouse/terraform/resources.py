"""What a file describes, however it is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

POLICY: Final = "cloudflare_zero_trust_gateway_policy"
LIST: Final = "cloudflare_zero_trust_list"

MAX_SIZE: Final = 8_000_000
"""Bytes of a file."""

MAX_HCL: Final = 2_000_000
"""Characters of HCL. The library reads some 60,000 a second, and at worst 20,000 with a kilobyte of memory for each.
500 policies, or 60,000 values of lists, are within it."""


class TerraformInvalid(Exception):
    """A file that cannot be read at all. The message says where, and what to give instead."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What only Terraform can work out. `text` is what the file says of it."""

    text: str


@dataclass(frozen=True, slots=True)
class Template:
    """Text with something unknown in it."""

    parts: tuple[str | Unknown, ...]


Value: TypeAlias = bool | int | float | str | Unknown | Template | list["Value"] | dict[str, "Value"] | None


@dataclass(frozen=True, slots=True)
class Resource:
    """A block of the file, or what Terraform made of one. `address` is Terraform's name for it."""

    address: str
    type: str
    label: str
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Note:
    """What could not be mapped, or not as it stands. `left_out`: because of it the resource is missing.

    `resource` is an address, or the type of several; empty where it is about the whole file. `attribute` may be empty.
    """

    resource: str
    attribute: str
    message: str
    left_out: bool = False
