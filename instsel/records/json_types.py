"""Types of objects as JSON has them, whose values are looked at before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

JsonValue = Union[None, bool, int, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]]  # noqa: UP007 - evaluated at run time
JsonObject = dict[str, JsonValue]
JsonMapping = Mapping[str, JsonValue]
Row = Mapping[str, object]  # a row as it is given: a table's cells may also be dates, bytes or arrays
# As a chat template takes them: a message of a conversation has role, content and whatever else, a tool a JSON schema.
Message = Mapping[str, Any]
Tool = Mapping[str, Any]
