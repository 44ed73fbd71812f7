"""Who is at a shared device, and which of its registrations is current (decision 19), as pure functions of values.

A device says what happens on it; from that follows who is at its desk. Which registration is current follows from that
and from those that are active, whichever way it came about, so nothing needs to be undone when one of them goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class OsEvent(IntEnum):
    """What a device reports, by the numbers of the contract."""

    LOG_IN = 1
    """Somebody has logged in to the operating system, or unlocked their session."""
    LOG_OUT = 2
    """Somebody's session has ended."""
    SWITCH = 3
    """Somebody has come to the desk without logging the one before out (fast user switching)."""
    LOCK = 4
    """The login screen or lock screen is shown, whoever is logged in behind it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Who has the interactive station of a device.

    `os_user` is the account of the operating system, and at the login screen the one that had it last; empty: nobody
    yet.
    """

    os_user: str = ""
    at_login_screen: bool = True


NOBODY = Desk()


@dataclass(frozen=True, slots=True)
class Seat:
    """An active registration on a shared device. Without an account it is the pre-login registration."""

    registration_id: str
    os_user: str = ""


def after(desk: Desk, event: OsEvent, os_user: str) -> Desk:
    """Who is at the desk after an event. A session that ends behind somebody else's changes nothing."""
    match event:
        case OsEvent.LOG_IN | OsEvent.SWITCH:
            return Desk(os_user, at_login_screen=False)
        case OsEvent.LOG_OUT if os_user != desk.os_user:
            return desk
    return Desk(desk.os_user)


def registered(desk: Desk, os_user: str) -> Desk:
    """Who is at the desk once an account has registered: that one, if the device has not said who is."""
    return Desk(os_user, at_login_screen=False) if desk == NOBODY and os_user else desk


def current(desk: Desk, seats: Sequence[Seat]) -> str:
    """The registration that the device's traffic is attributed to; empty: none. The seats are in the order of time.

    At the login screen it is the pre-login registration; where there is none, the device stays with the account before.
    An account has the registration that it made last.
    """
    own = _last(desk.os_user, seats) if desk.os_user else ""
    return _last("", seats) or own if desk.at_login_screen else own


def asks_to_register(desk: Desk, seats: Sequence[Seat]) -> bool:
    """Whether whoever is at the desk is to be asked to register. Nobody is asked at the login screen."""
    return not desk.at_login_screen and not current(desk, seats)


def _last(os_user: str, seats: Sequence[Seat]) -> str:
    return next((seat.registration_id for seat in reversed(seats) if seat.os_user == os_user), "")
