"""Filters by tags: each comparison as the protocol's own server makes it, and malformed filters."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from centrifuge import Filter as Build
from hypothesis import given
from hypothesis import strategies as st

from roomcast.centrifuge.filters import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, MAX_VALUES, matches, parse
from roomcast.model.errors import ClientError, ErrorCode

Node = dict[str, Any]
TAGS = {"team": "red", "price": "12.50", "empty": ""}
COMPARES = ("eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte")


def leaf(key: str, compare: str, value: str = "", *values: str) -> Node:
    node: Node = {"key": key, "cmp": compare}
    if value:
        node["val"] = value
    if values:
        node["vals"] = list(values)
    return node


def is_wanted(node: Node, tags: dict[str, str] | None = TAGS) -> bool:
    return matches(parse(node), tags)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (leaf("team", "eq", "red"), True),
        (leaf("team", "eq", "Red"), False),
        (leaf("other", "eq", "red"), False),
        (leaf("team", "neq", "red"), False),
        (leaf("team", "neq", "blue"), True),
        (leaf("other", "neq", "red"), True),
        (leaf("team", "in", "", "blue", "red"), True),
        (leaf("team", "in", "", "blue"), False),
        (leaf("other", "in", "", "blue"), False),
        (leaf("other", "in", "", "blue", ""), True),
        (leaf("team", "nin", "", "blue", "red"), False),
        (leaf("team", "nin", "", "blue"), True),
        (leaf("other", "nin", "", "blue"), True),
        (leaf("other", "nin", "", "blue", ""), False),
        (leaf("team", "ex"), True),
        (leaf("empty", "ex"), True),
        (leaf("other", "ex"), False),
        (leaf("", "ex"), False),
        (leaf("team", "nex"), False),
        (leaf("other", "nex"), True),
        (leaf("team", "sw", "re"), True),
        (leaf("team", "sw", "ed"), False),
        (leaf("other", "sw", "re"), False),
        (leaf("team", "ew", "ed"), True),
        (leaf("team", "ew", "re"), False),
        (leaf("other", "ew", "ed"), False),
        (leaf("team", "ct", "e"), True),
        (leaf("team", "ct", "x"), False),
        (leaf("other", "ct", "e"), False),
    ],
)
def test_a_tag_is_compared_as_text(node: Node, *, expected: bool) -> None:
    assert is_wanted(node) is expected


@pytest.mark.parametrize(
    ("tag", "compare", "value", "expected"),
    [
        ("12.50", "lt", "12.51", True),
        ("12.50", "lt", "12.5", False),
        ("12.50", "lte", "12.5", True),
        ("9", "gt", "10", False),
        ("10", "gt", "9", True),
        ("10", "gte", "10.0", True),
        ("+10", "gte", "-10", True),
        ("-11", "lt", "-10", True),
        ("9" * 200, "gt", "9" * 199, True),
        ("1." + "0" * 18 + "1", "gt", "1", True),
        # Numbers without an exponent, of at most 19 places and 200 digits; nothing else is one.
        ("1." + "0" * 19 + "1", "gt", "1", False),
        ("9" * 201, "gt", "1", False),
        ("9" * 256, "gt", "1", False),
        ("1e3", "gt", "1", False),
        ("3", "gt", "1e0", False),
        ("NaN", "lte", "1", False),
        ("Infinity", "gt", "1", False),
        ("\u0663", "gt", "1", False),
        (".5", "lt", "1", False),
        ("5.", "gt", "1", False),
        (" 5", "gt", "1", False),
        ("1_0", "gt", "1", False),
        ("", "lt", "1", False),
        ("5\n", "gt", "1", False),
    ],
)
def test_a_tag_is_compared_as_a_number(tag: str, compare: str, value: str, *, expected: bool) -> None:
    assert is_wanted(leaf("n", compare, value), {"n": tag}) is expected


@pytest.mark.parametrize("compare", ["lt", "lte", "gt", "gte"])
def test_a_tag_that_is_not_there_is_no_number(compare: str) -> None:
    assert not is_wanted(leaf("other", compare, "1"))


def test_comparisons_are_joined() -> None:
    red, blue, dear = leaf("team", "eq", "red"), leaf("team", "eq", "blue"), leaf("price", "gt", "10")

    assert is_wanted({"op": "and", "nodes": [red, dear]})
    assert not is_wanted({"op": "and", "nodes": [red, blue]})
    assert is_wanted({"op": "or", "nodes": [blue, red]})
    assert not is_wanted({"op": "or", "nodes": [blue, blue]})
    assert is_wanted({"op": "not", "nodes": [blue]})
    assert not is_wanted({"op": "not", "nodes": [{"op": "or", "nodes": [blue, {"op": "and", "nodes": [red, dear]}]}]})


def test_a_publication_without_tags_has_none() -> None:
    assert is_wanted(leaf("team", "nex"), None)
    assert not is_wanted(leaf("team", "ex"), None)


def test_the_python_sdk_s_filters_are_understood() -> None:
    """The example of its documentation."""
    built = Build.all(
        Build.eq("ticker", "AAPL"), Build.gte("price", "100"), Build.negate(Build.is_in("source", ["NYSE", "LSE"]))
    )

    assert is_wanted(built.node, {"ticker": "AAPL", "price": "100", "source": "NASDAQ"})
    assert not is_wanted(built.node, {"ticker": "AAPL", "price": "99.99", "source": "NASDAQ"})
    assert not is_wanted(built.node, {"ticker": "AAPL", "price": "100", "source": "NYSE"})


def test_equal_filters_are_one_key() -> None:
    first = parse({"op": "and", "nodes": [leaf("a", "in", "", "x", "y"), leaf("b", "gt", "1.0")]})
    second = parse({"nodes": [leaf("a", "in", "", "y", "x"), {**leaf("b", "gt", "1.0"), "vals": None}], "op": "and"})
    other = parse({"op": "or", "nodes": [leaf("a", "in", "", "x", "y"), leaf("b", "gt", "1.0")]})

    assert first == second
    assert len({first, second, other}) == 2


def nested(depth: int) -> Node:
    node = leaf("a", "ex")
    for _ in range(depth - 1):
        node = {"op": "not", "nodes": [node]}
    return node


def joined(count: int, node: Node) -> Node:
    return {"op": "or", "nodes": [node] * count}


@pytest.mark.parametrize(
    "node",
    [
        nested(MAX_DEPTH),
        joined(MAX_NODES - 1, leaf("a", "ex")),
        leaf("a", "in", "", *["x"] * MAX_VALUES),
        leaf("a" * MAX_CHARACTERS, "eq", "b" * MAX_CHARACTERS),
    ],
    ids=["depth", "nodes", "values", "characters"],
)
def test_a_filter_of_the_greatest_size_is_taken(node: Node) -> None:
    parse(node)


@pytest.mark.parametrize(
    ("node", "detail"),
    [
        ({}, "cmp is one of"),
        (leaf("a", "like", "b"), "cmp is one of"),
        ({"op": "xor", "nodes": [leaf("a", "ex")]}, "op is one of"),
        ({"op": "AND", "nodes": [leaf("a", "ex")]}, "op is one of"),
        ({"op": 1}, "op: text"),
        (leaf("", "eq", "b"), "eq has a key"),
        ({"key": 1, "cmp": "eq", "val": "b"}, "key: text"),
        ({"key": "a", "cmp": "eq", "val": 1}, "val: text"),
        (leaf("a", "eq"), "eq has a val"),
        (leaf("a", "eq", "b", "c"), "eq has a val and no vals"),
        (leaf("a", "gt"), "gt has a val"),
        (leaf("a", "in"), "in has vals"),
        (leaf("a", "nin", "b", "c"), "nin has vals and no val"),
        ({"key": "a", "cmp": "in", "vals": "abc"}, "vals is a list"),
        ({"key": "a", "cmp": "in", "vals": [1]}, "vals: text"),
        (leaf("a", "ex", "b"), "ex has neither"),
        (leaf("a", "nex", "", "b"), "nex has neither"),
        ({"op": "and"}, "and has at least one"),
        ({"op": "or", "nodes": []}, "or has at least one"),
        ({"op": "or", "nodes": {}}, "nodes is a list"),
        ({"op": "or", "nodes": ["a"]}, "a node is an object"),
        ({"op": "not", "nodes": []}, "not has exactly one"),
        ({"op": "not", "nodes": [leaf("a", "ex")] * 2}, "not has exactly one"),
        (nested(MAX_DEPTH + 1), "8 deep"),
        (nested(5000), "8 deep"),
        (joined(MAX_NODES, leaf("a", "ex")), "at most 64 nodes"),
        (leaf("a", "in", "", *["x"] * (MAX_VALUES + 1)), "at most 256 values"),
        (joined(2, leaf("a", "in", "", *["x"] * (MAX_VALUES - 1))), "at most 256 values"),
        (leaf("a" * (MAX_CHARACTERS + 1), "ex"), "key: text of at most 256"),
        (leaf("a", "eq", "b" * (MAX_CHARACTERS + 1)), "val: text of at most 256"),
        (leaf("a", "in", "", "b" * (MAX_CHARACTERS + 1)), "vals: text of at most 256"),
    ],
)
def test_what_is_no_filter_is_refused_with_107(node: Node, detail: str) -> None:
    with pytest.raises(ClientError, match=detail) as refused:
        parse(node)

    assert refused.value.error is ErrorCode.BAD_REQUEST


def anything(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    texts = st.text(max_size=3) | st.none() | st.integers()
    return inner | st.fixed_dictionaries(
        {},
        optional={
            "op": st.sampled_from(["", "and", "or", "not", "x"]) | texts,
            "key": st.sampled_from(["a", "b"]) | texts,
            "cmp": st.sampled_from(COMPARES) | texts,
            "val": st.sampled_from(["1", "x"]) | texts,
            "vals": st.lists(texts, max_size=3) | texts,
            "nodes": st.lists(inner, max_size=3) | texts,
        },
    )


@given(
    st.recursive(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), anything, max_leaves=20),
    st.none() | st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=3)),
)
def test_whatever_a_client_sends_is_a_filter_or_refused(node: Node, tags: dict[str, str] | None) -> None:
    """Anything but a ClientError would end the connection, or the node."""
    with contextlib.suppress(ClientError):
        wanted = parse(node)

        assert matches(wanted, tags) in (True, False)
        assert hash(wanted) == hash(parse(node))
