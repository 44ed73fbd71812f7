"""Named lists: values that many rules share, prepared once for all of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from guardhouse.expressions.errors import ListInvalid
from guardhouse.expressions.fields import Field, Type, folded
from guardhouse.expressions.ranges import Range, address_range, integer_range, merged


@dataclass(frozen=True, slots=True)
class NamedList:
    """What `in $name` looks into: texts as they are compared, or ranges of numbers or addresses; the other is empty.

    `type` says what its values are. A list of TEXT, such as serial numbers, serves every field that holds text.
    """

    type: Type
    members: frozenset[str] = frozenset()
    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, type_: Type, values: Iterable[str]) -> "NamedList":
        """Read values as they stand in a set, texts without quotes.

        Raises ListInvalid for the first that the type does not have, and ValueError for BOOLEAN, which has no lists.
        """
        if type_ is Type.BOOLEAN:
            raise ValueError("a list holds no true or false")
        if type_.is_text:
            return cls(type_, frozenset(folded(value, type_) for value in values))
        ranges: list[Range] = []
        for place, value in enumerate(values):
            try:
                ranges.append(address_range(value) if type_ is Type.ADDRESS else integer_range(value, 2**63 - 1))
            except ValueError as wrong:
                raise ListInvalid(str(wrong), place) from None
        return cls(type_, ranges=merged(ranges))

    def fits(self, field: Field) -> bool:
        """Whether its values are such as the field holds."""
        return self.type is field.type or (self.type is Type.TEXT and field.type.is_text)

    def members_for(self, field: Field) -> frozenset[str]:
        """Its texts as the field compares them."""
        if self.type is field.type or not field.type.ignores_case:
            return self.members
        return frozenset(folded(member, field.type) for member in self.members)
