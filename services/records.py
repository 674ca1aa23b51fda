"""Domain values to JSON text and back: what is kept in files, databases and cluster objects.

Pydantic reads the dataclasses' own annotations, so a record with a missing, wrong or hostile field
is refused here, at the border, and not somewhere behind it.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.errors import ConfigError, one_line

T = TypeVar("T")


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # Building one takes milliseconds, using one microseconds: build once per type.
    return _adapters.setdefault(kind, _adapters.get(kind) or TypeAdapter(kind))


def dump(value: object, *, indent: int | None = None) -> str:
    """The JSON text of a domain value (dataclasses, enums, aware datetimes, tuples)."""
    return _adapter(type(value)).dump_json(value, indent=indent).decode()


def load(kind: type[T], text: str | bytes) -> T:
    """The domain value in a JSON text. ConfigError says which field does not fit."""
    try:
        value: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"A stored {kind.__name__} cannot be read.",
            why=one_line(f"{place}: {first['msg']}"),
            fix="It was written by another version of Slipway, or damaged; move it away to go on.",
        ) from error
    return value
