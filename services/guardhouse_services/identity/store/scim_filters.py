"""What of a SCIM filter (RFC 7644, section 3.4.2.2) the database decides by its indexes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from scim2_models import InvalidFilterException, ScimFilter
from scim2_models.path import (
    AttributeBinding,
    CompareOperator,
    Comparison,
    FilterVisitor,
    LogicalExpr,
    LogicalOperator,
    Not,
    Present,
    ValuePath,
)

from guardhouse_services.identity.domain.scim import Client, Kind
from guardhouse_services.identity.store.tables import scim_member, scim_resource

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = {"created": scim_resource.c.create_time, "last_modified": scim_resource.c.update_time}
_ORDERS = {
    CompareOperator.eq: sa.ColumnElement.__eq__,
    CompareOperator.ne: sa.ColumnElement.__ne__,
    CompareOperator.gt: sa.ColumnElement.__gt__,
    CompareOperator.ge: sa.ColumnElement.__ge__,
    CompareOperator.lt: sa.ColumnElement.__lt__,
    CompareOperator.le: sa.ColumnElement.__le__,
}


class Narrowed(NamedTuple):
    """A condition that holds of whatever the filter matches; None: of everything."""

    which: sa.ColumnElement[bool] | None
    is_exact: bool
    """Whether nothing else fulfils it."""


_ANY = Narrowed(None, is_exact=False)


def narrow(client: Client, kind: Kind, wanted: ScimFilter[Any]) -> Narrowed:
    """What the database decides of a filter that is bound to the model of this kind."""
    return _Narrowing(client, kind, wanted).visit(wanted.ast)


class _Narrowing(FilterVisitor[Narrowed]):
    def __init__(self, client: Client, kind: Kind, wanted: ScimFilter[Any]) -> None:
        self._client = client
        self._name = "user_name" if kind is Kind.USER else "display_name"
        self._related = "groups" if kind is Kind.USER else "members"
        self._wanted = wanted

    def visit_logical_expr(self, node: LogicalExpr) -> Narrowed:
        parts = [self.visit(term) for term in node.terms]
        known: Sequence[sa.ColumnElement[bool]] = [part.which for part in parts if part.which is not None]
        is_exact = all(part.is_exact for part in parts)
        if node.op is LogicalOperator.and_:
            return Narrowed(sa.and_(*known) if known else None, is_exact)
        return Narrowed(sa.or_(*known), is_exact) if len(known) == len(parts) else _ANY

    def visit_not(self, node: Not) -> Narrowed:
        inner = self.visit(node.expr)
        return Narrowed(sa.not_(inner.which), is_exact=True) if inner.is_exact and inner.which is not None else _ANY

    def visit_present(self, node: Present) -> Narrowed:
        binding = self._wanted.resolve(node.attr_path, strict=False)
        if binding is not None and self._field(binding) == "external_id":
            return Narrowed(scim_resource.c.external_id.is_not(None), is_exact=True)
        return _ANY

    def visit_value_path(self, node: ValuePath) -> Narrowed:
        inner = node.val_filter
        binding = self._wanted.resolve(node.attr_path, strict=False)
        if binding is None or self._field(binding) != self._related or not isinstance(inner, Comparison):
            return _ANY
        if inner.attr_path.attr.lower() != "value" or inner.op is not CompareOperator.eq:
            return _ANY
        return self._is_related(_kept(inner.value))

    def visit_comparison(self, node: Comparison) -> Narrowed:
        binding = self._wanted.resolve_comparison(node.attr_path, strict=False)
        if binding is None or node.value is None:
            return _ANY
        field, op, value = self._field(binding), node.op, _kept(node.value)
        if field == self._name and isinstance(value, str):
            return _named(op, _key(binding, value))
        if field == "external_id" and op is CompareOperator.eq:
            column = scim_resource.c.external_id
            return Narrowed(sa.and_(column.is_not(None), column == _key(binding, str(value))), is_exact=True)
        if field == "id" and op is CompareOperator.eq:
            return Narrowed(scim_resource.c.resource_id == str(value), is_exact=True)
        if field == "active" and isinstance(value, bool) and op in (CompareOperator.eq, CompareOperator.ne):
            return Narrowed(scim_resource.c.active.is_(value is (op is CompareOperator.eq)), is_exact=True)
        if field == "meta" and binding.sub_field_name in _TIMES and op in _ORDERS:
            at = _micros(value)
            return _ANY if at is None else Narrowed(_ORDERS[op](_TIMES[binding.sub_field_name], at), is_exact=True)
        if field == self._related and binding.sub_field_name == "value" and op is CompareOperator.eq:
            return self._is_related(value)
        return _ANY

    def _field(self, binding: AttributeBinding) -> str:
        """The field of the resource itself; of an extension none."""
        return binding.field_name if binding.model is self._wanted.model else ""

    def _is_related(self, value: object) -> Narrowed:
        """A group with this member, or a member of this group."""
        here, there = scim_member.c.group_id, scim_member.c.member_id
        if self._related == "groups":
            here, there = there, here
        related = sa.select(here).where(
            scim_member.c.organization_id == self._client.organization_id,
            scim_member.c.identity_provider_id == self._client.identity_provider_id,
            there == str(value),
        )
        return Narrowed(scim_resource.c.resource_id.in_(related), is_exact=True)


def _kept(value: T) -> T:
    """The value. Raises InvalidFilterException for a text that no database keeps, or takes."""
    if isinstance(value, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidFilterException(detail="the filter holds a character that is none")
    return value


def _key(binding: AttributeBinding, value: str) -> str:
    """As it is compared: as the library does it."""
    return str(binding.comparable(value))


def _named(op: CompareOperator, key: str) -> Narrowed:
    column = scim_resource.c.name_key
    match op:
        case CompareOperator.eq:
            return Narrowed(column == key, is_exact=True)
        case CompareOperator.ne:
            return Narrowed(column != key, is_exact=True)
        case CompareOperator.sw:
            return Narrowed(column.startswith(key, autoescape=True), is_exact=True)
        case CompareOperator.ew:
            return Narrowed(column.endswith(key, autoescape=True), is_exact=True)
        case CompareOperator.co:
            return Narrowed(column.contains(key, autoescape=True), is_exact=True)
    # In what order texts are is another matter in each database.
    return _ANY


def _micros(value: object) -> int | None:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    # Without a zone it is compared with nothing.
    return None if at.tzinfo is None else (at - _EPOCH) // timedelta(microseconds=1)
