"""Filters by tags: the publications of a channel that a subscriber wants, as a tree of comparisons in the member `tf`.

Equal filters are equal values, so that subscribers with the same filter share an encoding.
Source: centrifuge's internal/filter/filter.go, the odd cases included. It has no limits; with ours a filter fits into
one message, and costs less than a write to a socket.
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject

MAX_DEPTH = 8
MAX_NODES = 64
MAX_VALUES = 256  # in the whole filter
MAX_CHARACTERS = 256  # of a key or a value

# As github.com/quagmt/udecimal parses numbers: 19 places after the point, 200 characters, no exponent.
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]{1,19})?")
_MAX_NUMBER_CHARACTERS = 200


class Compare(enum.StrEnum):
    """How a tag is compared, by the names on the wire."""

    EQUAL = "eq"
    NOT_EQUAL = "neq"
    IN = "in"
    NOT_IN = "nin"
    EXISTS = "ex"
    NOT_EXISTS = "nex"
    STARTS_WITH = "sw"
    ENDS_WITH = "ew"
    CONTAINS = "ct"
    LESS = "lt"
    LESS_OR_EQUAL = "lte"
    GREATER = "gt"
    GREATER_OR_EQUAL = "gte"


class Operation(enum.StrEnum):
    """How the nodes of a branch are joined, by the names on the wire."""

    AND = "and"
    OR = "or"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A comparison of one tag.

    value, values: the operand; which of the two depends on the comparison.
    number: the value of a numeric comparison; None: it is not a number, and matches nothing.
    """

    key: str
    compare: Compare
    value: str = ""
    values: frozenset[str] = frozenset()
    number: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Filters joined; exactly one if the operation is NOT."""

    operation: Operation
    nodes: tuple[Leaf | Branch, ...]


Filter = Leaf | Branch

_TEXTS: Mapping[Compare, Callable[[str | None, Leaf], bool]] = {
    Compare.EQUAL: lambda tag, leaf: tag == leaf.value,
    Compare.NOT_EQUAL: lambda tag, leaf: tag != leaf.value,
    # Among values, a missing tag counts as an empty one.
    Compare.IN: lambda tag, leaf: (tag or "") in leaf.values,
    Compare.NOT_IN: lambda tag, leaf: (tag or "") not in leaf.values,
    Compare.EXISTS: lambda tag, _: tag is not None,
    Compare.NOT_EXISTS: lambda tag, _: tag is None,
    Compare.STARTS_WITH: lambda tag, leaf: tag is not None and tag.startswith(leaf.value),
    Compare.ENDS_WITH: lambda tag, leaf: tag is not None and tag.endswith(leaf.value),
    Compare.CONTAINS: lambda tag, leaf: tag is not None and leaf.value in tag,
}
_NUMBERS: Mapping[Compare, Callable[[Decimal, Decimal], bool]] = {
    Compare.LESS: operator.lt,
    Compare.LESS_OR_EQUAL: operator.le,
    Compare.GREATER: operator.gt,
    Compare.GREATER_OR_EQUAL: operator.ge,
}


def parse(tf: JsonObject) -> Filter:
    """Return the filter that a client wants.

    Args:
        tf: a FilterNode of the schema: op, key, cmp, val, vals, nodes; other members and null are ignored.
    Raises: ClientError 107 with the reason.
    """
    return _Reader().node(tf, depth=1)


def matches(wanted: Filter, tags: Mapping[str, str] | None) -> bool:
    """Return whether a publication with these tags matches."""
    if isinstance(wanted, Leaf):
        return _leaf_matches(wanted, None if tags is None else tags.get(wanted.key))
    if wanted.operation is Operation.AND:
        return all(matches(node, tags) for node in wanted.nodes)
    if wanted.operation is Operation.OR:
        return any(matches(node, tags) for node in wanted.nodes)
    return not matches(wanted.nodes[0], tags)


def _leaf_matches(leaf: Leaf, tag: str | None) -> bool:
    """Return whether a tag matches a leaf; None: there is no such tag."""
    compare_texts = _TEXTS.get(leaf.compare)
    if compare_texts is not None:
        return compare_texts(tag, leaf)
    if tag is None or leaf.number is None:
        return False
    number = _number(tag)
    return number is not None and _NUMBERS[leaf.compare](number, leaf.number)


def _number(text: str) -> Decimal | None:
    is_number = len(text) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(text)
    return Decimal(text) if is_number else None


class _Reader:
    """Reads one filter, and counts its nodes and values."""

    def __init__(self) -> None:
        self._nodes = 0
        self._values = 0

    def node(self, node: Json, *, depth: int) -> Filter:
        if not isinstance(node, Mapping):
            raise _refused("a node is an object")
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _refused(f"at most {MAX_NODES} nodes, {MAX_DEPTH} deep")
        operation = _text(node, "op")
        if not operation:
            return self._leaf(node)
        try:
            return self._branch(Operation(operation), node, depth)
        except ValueError:
            raise _refused("op is one of and, or, not; or empty") from None

    def _branch(self, operation: Operation, node: JsonObject, depth: int) -> Branch:
        nodes = _list(node, "nodes")
        if operation is Operation.NOT and len(nodes) != 1:
            raise _refused("not has exactly one node")
        if not nodes:
            raise _refused(f"{operation.value} has at least one node")
        return Branch(operation, tuple(self.node(each, depth=depth + 1) for each in nodes))

    def _leaf(self, node: JsonObject) -> Leaf:
        try:
            compare = Compare(_text(node, "cmp"))
        except ValueError:
            raise _refused(f"cmp is one of {', '.join(each.value for each in Compare)}") from None
        key, value, values = _text(node, "key"), _text(node, "val"), _list(node, "vals")
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise _refused(f"at most {MAX_VALUES} values")
        if compare in {Compare.EXISTS, Compare.NOT_EXISTS}:
            if value or values:
                raise _refused(f"{compare.value} has neither val nor vals")
            return Leaf(key, compare)
        if not key:
            raise _refused(f"{compare.value} has a key")
        if compare in {Compare.IN, Compare.NOT_IN}:
            if value or not values:
                raise _refused(f"{compare.value} has vals and no val")
            return Leaf(key, compare, values=frozenset(_checked("vals", each) for each in values))
        if values or not value:
            raise _refused(f"{compare.value} has a val and no vals")
        return Leaf(key, compare, value, number=_number(value) if compare in _NUMBERS else None)


def _text(node: JsonObject, name: str) -> str:
    text = node.get(name)
    return "" if text is None else _checked(name, text)


def _checked(name: str, text: Json) -> str:
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise _refused(f"{name}: text of at most {MAX_CHARACTERS} characters")
    return text


def _list(node: JsonObject, name: str) -> list[Json]:
    found = node.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise _refused(f"{name} is a list")
    return found


def _refused(detail: str) -> ClientError:
    return ClientError(ErrorCode.BAD_REQUEST, f"tf: {detail}")
