"""Ids name their kind and sort by time (decision 14, RFC 9562)."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse import ids
from guardhouse.errors import FieldRequired, InvalidField

NOW = 1_790_000_000_000_000
GOOD = "reg_01a0c4506c007000a3b7c8d54fa4570b"
PREFIXES = [value for name, value in vars(ids).items() if name.isupper() and isinstance(value, str)]


def test_prefixes_are_distinct() -> None:
    """Decision 14: a device id and a registration id are different things everywhere."""
    assert len(PREFIXES) == len(set(PREFIXES)) == 23


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_new_id_is_a_uuid_of_version_7(prefix: str) -> None:
    """RFC 9562, section 5.7: 48 bits of milliseconds, the version, the variant."""
    value = ids.new_id(prefix, NOW + 999)
    assert ids.check_id(value, prefix, "id") == value
    made = uuid.UUID(value.removeprefix(f"{prefix}_"))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == NOW // 1_000


@given(st.integers(0, 2**53), st.just(1) | st.integers(1, 2**40))
def test_ids_sort_by_time(now: int, later: int) -> None:
    """RFC 9562, section 6.2, method 3: even times one microsecond apart are in order."""
    assert ids.new_id(ids.LEASE, now) < ids.new_id(ids.LEASE, now + later)


def test_ids_of_one_instant_differ() -> None:
    assert len({ids.new_id(ids.DEVICE, NOW) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("now", [-1, NOW * 1_000])
def test_a_time_in_another_unit_is_refused(now: int) -> None:
    with pytest.raises(OverflowError):
        ids.new_id(ids.DEVICE, now)


@pytest.mark.parametrize(
    "value",
    [
        GOOD.replace("reg_", "dev_"),
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "\n",
        " " + GOOD,
        "reg" + "0" * 32,
        "reg_" + "g" * 32,
        "reg_" + "\u0661" * 32,
        "reg_",
        "reg",
        str(uuid.UUID(int=7)),
    ],
)
def test_another_form_is_refused_and_not_repeated(value: str) -> None:
    """Decision 14: another kind's id is no registration's. The message says what one looks like."""
    with pytest.raises(InvalidField, match="registration_id is reg_ and 32 lower-case hex digits") as caught:
        ids.check_id(value, ids.REGISTRATION, "registration_id")
    assert caught.value.field == "registration_id"
    assert len(value) < 8 or value not in caught.value.message


def test_an_empty_id_is_missing() -> None:
    with pytest.raises(FieldRequired) as caught:
        ids.check_id("", ids.REGISTRATION, "registration_id")
    assert caught.value.field == "registration_id"
