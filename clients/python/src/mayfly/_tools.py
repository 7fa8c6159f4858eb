"""Plain functions as tools that a task can call: their names, descriptions and schemas, and the calls.

A task is not trusted: its arguments are checked against the function's own signature, and of an
exception it sees no more than its kind, unless it is a `ToolError`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import InvalidArgument

ANSWER_BYTES_MAX: Final = 1 << 20
_SIMPLE: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean",
                                  type(None): "null"}


class ToolError(Exception):
    """Raise it in a tool to tell the task why: its text is sent into the box."""


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    schema: dict[str, Any]
    function: Callable[..., Any]
    signature: inspect.Signature

    @property
    def schema_json(self) -> str:
        return json.dumps(self.schema, ensure_ascii=False, separators=(",", ":"))

    async def call(self, text: str) -> str:
        """The answer as JSON; InvalidArgument for arguments that the function does not take."""
        arguments = self._arguments(text)
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(**arguments)
        else:
            value = await asyncio.to_thread(self.function, **arguments)
        try:
            answer = json.dumps(value, ensure_ascii=False, allow_nan=False)
            size = len(answer.encode())
        except (TypeError, ValueError, RecursionError):
            raise ToolError("the tool's answer is not JSON") from None
        if size > ANSWER_BYTES_MAX:
            raise ToolError(f"the tool's answer has {size} bytes; at most {ANSWER_BYTES_MAX}")
        return answer

    def _arguments(self, text: str) -> dict[str, Any]:
        try:
            arguments = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            raise InvalidArgument("the arguments are not JSON") from None
        if not isinstance(arguments, dict):
            raise InvalidArgument("the arguments are not a JSON object")
        try:
            self.signature.bind(**arguments)
        except TypeError as error:
            raise InvalidArgument(f"the arguments do not fit: {error}") from None
        for name, value in arguments.items():
            if not _fits(value, self.schema["properties"].get(name, {})):
                raise InvalidArgument(f"the argument '{name}' is not of the type that the tool takes")
        return arguments


def _schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of an annotation where it is simple; else any value."""
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is list or origin is list:
        return {"type": "array"} | ({"items": _schema_of(args[0])} if args else {})
    if kind is dict or origin is dict:
        return {"type": "object"} | ({"additionalProperties": _schema_of(args[1])} if args else {})
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(each) for each in args]}
    if origin is typing.Literal and all(type(each) in _SIMPLE for each in args):
        return {"enum": list(args)}
    return {}


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON value fits a schema that `_schema_of` made."""
    if "anyOf" in schema:
        return any(_fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(each) and value == each for each in schema["enum"])
    match schema.get("type"):
        case None:
            return True
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list) and all(
                _fits(each, schema.get("items", {})) for each in value)
    return isinstance(value, dict) and all(
        _fits(each, schema.get("additionalProperties", {})) for each in value.values())


def _tool(name: object, function: object) -> Tool:
    if not isinstance(name, str):
        raise TypeError(f"tools: a name is a str, not {type(name).__name__}")
    if not callable(function):
        raise TypeError(f"tools[{name!r}]: a function is needed, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise TypeError(f"tools[{name!r}]: its parameters cannot be read: {error}") from None
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # of an object without annotations, or a name that cannot be resolved
        hints = {}
    properties: dict[str, Any] = {}
    required, more = [], False
    for each in signature.parameters.values():
        if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL):
            raise TypeError(f"tools[{name!r}]: the parameter `{each}` has no name that a task could give")
        if each.kind is each.VAR_KEYWORD:
            more = True
            continue
        properties[each.name] = _schema_of(hints[each.name]) if each.name in hints else {}
        if each.default is each.empty:
            required.append(each.name)
    schema = {"type": "object", "properties": properties, "required": required,
              "additionalProperties": more}
    return Tool(name, inspect.getdoc(function) or "", schema, function, signature)


def tools_of(value: object) -> list[Tool]:
    if not isinstance(value, Mapping):
        raise TypeError(f"tools: a dict {{name: function}} is needed, not {type(value).__name__}")
    return [_tool(name, function) for name, function in value.items()]


def grants_of(value: object) -> list[tuple[str, str]]:
    """Pairs of name and narrowing."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise TypeError('grants: a list is needed, like ["openai", "orders:calls=10"]')
    grants = []
    for each in value:
        if not isinstance(each, str):
            raise TypeError(f"grants: a str \"NAME\" or \"NAME:BOUNDS\" is needed, not {type(each).__name__}")
        name, _, narrowing = each.partition(":")
        if not name:
            raise InvalidArgument(f"grants: {each!r} names no action")
        grants.append((name, narrowing))
    return grants
