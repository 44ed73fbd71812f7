import pytest

from tests.plane import Plane
from tests.system.people import World


@pytest.fixture
def engine() -> str:
    """An agent does not see the database: one engine is enough."""
    return "sqlite"


@pytest.fixture
def world(plane: Plane) -> World:
    return World(plane, plane.organization)
