"""A plane with an organization, seen as its operator and its devices see it."""

import pytest

from tests.plane import Plane
from tests.system.people import World


@pytest.fixture
def world(plane: Plane) -> World:
    return World(plane, plane.organization)
