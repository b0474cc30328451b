"""Files that the gate reads: JSON objects that say their kind and schema, refused one by one for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from parity.errors import GateError
from parity.plain import plain

Model = TypeVar("Model", bound=BaseModel)


class Record(BaseModel):
    """Base of everything that is read: exactly these fields, no number that is NaN or infinite, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: The file.
        what: Its noun in messages.
        remedy: What to do about one that is missing or broken.

    Raises:
        GateError: It does not exist, cannot be read, or is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GateError(f"{what} {str(path)!r} does not exist; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise GateError(f"{what} {str(path)!r} is unreadable: {reason}; {remedy}") from None
    if not text.strip():
        raise GateError(f"{what} {str(path)!r} is an empty file; {remedy}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GateError(f"{what} {str(path)!r} is not JSON: {error}; {remedy}") from None
    if not isinstance(data, dict):
        raise GateError(f"{what} {str(path)!r} is no JSON object but a {type(data).__name__}; {remedy}")
    return data


def require_schema(data: Mapping[str, Any], schema: int, what: str, path: Path, remedy: str) -> None:
    """Refuse a file of another schema.

    Raises:
        GateError: It has none, an older or a newer one.
    """
    found = data.get("schema")
    if type(found) is not int:
        raise GateError(f"{what} {str(path)!r} has no schema version, got {found!r}; {remedy}")
    if found < schema:
        raise GateError(f"{what} {str(path)!r} has an older schema: {found}, this version reads {schema}; {remedy}")
    if found > schema:
        raise GateError(
            f"{what} {str(path)!r} has a newer schema: {found}, this version reads {schema}; update the package"
        )


def read_model(model: type[Model], data: Any, what: str, path: Path, remedy: str) -> Model:
    """Return `data` as `model`.

    Raises:
        GateError: A field is missing, unknown or has a value that it cannot have.
    """
    try:
        return model.model_validate_json(json.dumps(data))
    except (ValidationError, ValueError) as error:
        raise GateError(f"{what} {str(path)!r} is damaged: {_first(error)}; {remedy}") from None


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def reviewable_json(value: Any) -> str:
    """Return JSON that a diff shows line by line: names sorted, lists of plain values on one line."""
    return _rendered(plain(value), "") + "\n"


def _rendered(value: Any, indent: str) -> str:
    deeper = indent + " "
    if isinstance(value, dict) and value:
        items = (f"{deeper}{json.dumps(str(name))}: {_rendered(value[name], deeper)}" for name in sorted(value))
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(f"{deeper}{_rendered(item, deeper)}" for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)
