"""The resources of what `terraform show -json` prints of a plan or a state.

The format: https://developer.hashicorp.com/terraform/internals/json-format. It writes out what a configuration only
computes, except what is known only once it is applied.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from guardhouse.terraform.resources import Resource, TerraformInvalid, Unknown, Value

_INDEX: Final = re.compile(r"\[(?:\d+|\"(?:\\.|[^\"\\])*\")\]")
_LATER: Final = Unknown("known after apply")


def resources(text: str) -> Sequence[Resource]:
    """Those of every module. Raises TerraformInvalid and RecursionError."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise TerraformInvalid(f"it is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:  # A number of thousands of digits.
        raise TerraformInvalid(f"it is not JSON: {error}") from None
    values = _object(document, "planned_values") or _object(document, "values")
    if not isinstance(values.get("root_module"), dict):
        raise TerraformInvalid("it is neither a plan nor a state: give what `terraform show -json` prints")
    written = dict(_written(_object(_object(document, "configuration"), "root_module"), ""))
    later = {
        str(change.get("address")): _object(_object(change, "change"), "after_unknown")
        for change in _objects(document, "resource_changes")
    }
    return [_resource(found, written, later) for found in _managed(values["root_module"])]


def _resource(found: Mapping[str, Any], written: Mapping[str, Any], later: Mapping[str, Any]) -> Resource:
    address = str(found.get("address"))
    configured = written.get(_INDEX.sub("", address))
    attributes = _merged(_object(found, "values"), later.get(address, {}), configured)
    return Resource(address, str(found.get("type")), str(found.get("name")), attributes)


def _managed(module: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (it for it in _objects(module, "resources") if it.get("mode") == "managed")
    for child in _objects(module, "child_modules"):
        yield from _managed(child)


def _written(module: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By address, without indexes: what the configuration says of each attribute that it sets."""
    for resource in _objects(module, "resources"):
        yield f"{prefix}{resource.get('address')}", _object(resource, "expressions")
    for name, call in _object(module, "module_calls").items():
        if isinstance(call, dict):
            yield from _written(_object(call, "module"), f"{prefix}module.{name}.")


def _merged(
    values: Mapping[str, Any], later: Mapping[str, Any], configured: Mapping[str, Any] | None
) -> dict[str, Value]:
    """The values with a mark where something is written that is known later.

    What `configured` does not name, nobody wrote: the server fills it in. Without it everything counts as written, so
    that no condition is lost.
    """
    found: dict[str, Value] = dict(values)
    for name, mark in later.items():
        if configured is not None and name not in configured:
            continue
        inside = found.get(name)
        if isinstance(mark, dict) and isinstance(inside, dict):
            constant = _object(configured, name).get("constant_value")
            found[name] = _merged(inside, mark, constant if isinstance(constant, dict) else None)
        elif _any(mark):
            found[name] = _LATER
    return found


def _any(mark: Any) -> bool:
    if isinstance(mark, dict):
        return any(map(_any, mark.values()))
    return any(map(_any, mark)) if isinstance(mark, list) else mark is True


def _object(parent: Any, name: str) -> dict[str, Any]:
    found = parent.get(name) if isinstance(parent, dict) else None
    return found if isinstance(found, dict) else {}


def _objects(parent: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = parent.get(name)
    return [it for it in found if isinstance(it, dict)] if isinstance(found, list) else []
