"""Reading and writing JSON: the one place, so that every endpoint accepts the same texts.

orjson does it. It rejects JSON that other libraries write: escapes of lone surrogates (`JSON.stringify` of a text that
was cut inside an emoji), more than 1,024 levels of nesting when parsing and 254 when serialising, numbers beyond a
double (`1e400`). Only for these the standard library takes over, which is slower.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, NoReturn

import orjson

# Any JSON value. `Any`, because Python's type system cannot describe JSON without a cast at every access.
Json = Any
JsonObject = Mapping[str, Json]

# Levels of a document around its payloads that `loads` reads itself: a batch's command has four.
_LEVELS = 8
_LONG = b"0" * 19
_SPACE = " \t\r\n"


class InvalidJson(ValueError):  # noqa: N818  (a description)
    """A text is not JSON, or a value cannot be written as JSON; the text says why."""


class TooDeep(InvalidJson):
    """JSON is nested too deeply: Python's recursion limit, about 900 levels."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


def loads(text: bytes | str, keep: Collection[str] = ()) -> Json:
    """Return the value of a JSON text.

    Args:
        keep: members that are payloads. If orjson rejects the text, or would round a number, the values of these
            members are returned as `orjson.Fragment`, so that they are sent unchanged, except null. Everything else
            has to be JSON that orjson accepts, because a name with a lone surrogate cannot be encoded.
    Raises: InvalidJson, TooDeep.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return loads_unchanged(text, keep)
    return unrounded(found, text, keep) if keep else found


def unrounded(found: Json, text: bytes | str, keep: Collection[str]) -> Json:
    """Return what orjson found in a text; with the values of `keep` unchanged, if it may have rounded a number.

    It reads integers of 64 bits exactly, and decimals of up to 15 digits; those that doubles need have at most 17.
    """
    if _LONG not in (text.encode() if isinstance(text, str) else text).translate(_zeros()):
        return found
    try:
        return loads_unchanged(text, keep)
    except InvalidJson:  # nested too deeply for the standard library
        return found


def loads_unchanged(text: bytes | str, keep: Collection[str]) -> Json:
    """Return the value of a JSON text, as `loads` if orjson rejects it."""
    found = _read(text, lambda reader: reader.document(keep))
    if keep:
        try:
            orjson.dumps(found)
        except orjson.JSONEncodeError as exc:
            raise InvalidJson(str(exc)) from None
    return found


def check(text: bytes) -> None:
    """Check that a text is JSON. Raises: InvalidJson, TooDeep."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        _read(text, _Reader.check)


def dumps(value: Json) -> bytes:
    """Return a value as compact JSON. Raises: InvalidJson, TooDeep."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as exc:
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except RecursionError:
            raise TooDeep from None
        except (TypeError, ValueError):
            raise InvalidJson(str(exc)) from None


def _read(text: bytes | str, read: Callable[[_Reader], Json]) -> Json:
    try:
        return read(_Reader((text.encode() if isinstance(text, str) else text).decode()))
    except RecursionError:
        raise TooDeep from None
    except UnicodeError:
        raise InvalidJson("not UTF-8") from None
    except json.JSONDecodeError as exc:
        raise InvalidJson(str(exc)) from None


def _reject_constant(name: str) -> NoReturn:
    raise InvalidJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidJson(f"{text[:32]} is out of range")
    return value


def _whole(text: str) -> int | float:
    # As orjson, which returns a float beyond 64 bits; Python's int() takes quadratic time for thousands of digits.
    if len(text) <= 20 and -(2**63) <= (value := int(text)) < 2**64:
        return value
    return _finite(text)


@cache
def _zeros() -> bytes:
    """Return a table that makes digits and points zeros, so that long numbers are found by a search for zeros."""
    return bytes.maketrans(b"123456789.", b"0000000000")


@cache
def _checker() -> json.JSONDecoder:
    """Return the decoder of payloads, which are only checked: their numbers stay text."""
    return json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_reject_constant)


@cache
def _parser() -> json.JSONDecoder:
    return json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_reject_constant)


_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]


class _Reader:
    """Reads a document whose payloads it cuts out."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._keep: Collection[str] = ()

    def document(self, keep: Collection[str]) -> Json:
        """Return the value of the document."""
        self._keep = keep
        value, end = self._value(self._skip(0), _LEVELS)
        self._end(end)
        return value

    def check(self) -> None:
        """Check that the document is JSON."""
        self._end(self._scan(_checker(), self._skip(0))[1])

    def _end(self, at: int) -> None:
        if self._skip(at) != len(self._text):
            raise InvalidJson(f"more than one value, at character {at}")

    def _scan(self, decoder: json.JSONDecoder, at: int) -> tuple[Json, int]:
        try:
            found: tuple[Json, int] = decoder.scan_once(self._text, at)  # type: ignore[attr-defined]
        except StopIteration:  # would end a generator above
            raise InvalidJson(f"no value at character {at}") from None
        return found

    def _value(self, at: int, levels: int) -> tuple[Json, int]:
        first = self._text[at : at + 1]
        if first == "{" and levels and self._keep:
            return self._object(at, levels - 1)
        if first == "[" and levels and self._keep:
            return self._array(at, levels - 1)
        return self._scan(_parser(), at)

    def _object(self, at: int, levels: int) -> tuple[Json, int]:
        members: dict[str, Json] = {}
        at = self._skip(at + 1)
        if self._text.startswith("}", at):
            return members, at + 1
        while True:
            self._expect('"', at)
            name, at = _string(self._text, at + 1)
            at = self._skip(at)
            self._expect(":", at)
            at = self._skip(at + 1)
            members[name], at = self._payload(at) if name in self._keep else self._value(at, levels)
            at = self._skip(at)
            if self._text.startswith("}", at):
                return members, at + 1
            self._expect(",", at)
            at = self._skip(at + 1)

    def _array(self, at: int, levels: int) -> tuple[Json, int]:
        found: list[Json] = []
        at = self._skip(at + 1)
        if self._text.startswith("]", at):
            return found, at + 1
        while True:
            value, at = self._value(at, levels)
            found.append(value)
            at = self._skip(at)
            if self._text.startswith("]", at):
                return found, at + 1
            self._expect(",", at)
            at = self._skip(at + 1)

    def _payload(self, at: int) -> tuple[orjson.Fragment | None, int]:
        value, end = self._scan(_checker(), at)
        return None if value is None else orjson.Fragment(self._text[at:end].encode()), end

    def _skip(self, at: int) -> int:
        text = self._text
        while text[at : at + 1] in _SPACE and at < len(text):
            at += 1
        return at

    def _expect(self, what: str, at: int) -> None:
        if not self._text.startswith(what, at):
            raise InvalidJson(f"{what} expected at character {at}")
