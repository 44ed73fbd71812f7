"""What the values of a named list are."""

from enum import IntEnum

from guardhouse.expressions import Type


class ListType(IntEnum):
    """What the values are; the numbers of guardhouse.session.v1.ListType."""

    IP = 1
    HOST = 2
    EMAIL = 3
    TEXT = 4
    INTEGER = 5

    @property
    def type(self) -> Type:
        """As expressions have it."""
        return _TYPES[self]


_TYPES = {
    ListType.IP: Type.ADDRESS,
    ListType.HOST: Type.HOST,
    ListType.EMAIL: Type.EMAIL,
    ListType.TEXT: Type.TEXT,
    ListType.INTEGER: Type.INTEGER,
}
