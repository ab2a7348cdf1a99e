from __future__ import annotations

from typing import Any

import pytest

from roomcast.model.errors import ClientError
from roomcast.model.tags import check_tags


@pytest.mark.parametrize(
    "tags",
    [{"lang": "en"}, {"": ""}, {"größe": "M"}, {f"{number}": "x" * 128 for number in range(32)}, {"ß" * 64: "\0"}],
)
def test_short_texts_are_tags(tags: dict[str, str]) -> None:
    assert check_tags(tags) == tags


@pytest.mark.parametrize("tags", [None, {}])
def test_no_tags_are_none(tags: dict[str, str] | None) -> None:
    assert check_tags(tags) is None


@pytest.mark.parametrize(
    ("value", "code", "why"),
    [
        ([], 107, "tags is no object"),
        ("", 107, "tags is no object"),
        (0, 107, "tags is no object"),
        ({"n": 1}, 107, "keys and values of tags are texts"),
        ({"n": None}, 107, "keys and values of tags are texts"),
        ({1: "n"}, 107, "keys and values of tags are texts"),
        ({"n": b"x"}, 107, "keys and values of tags are texts"),
        ({"\ud800": "x"}, 107, "tags are not valid UTF-8"),
        ({"x": "\ud800"}, 107, "tags are not valid UTF-8"),
        ({f"{number}": "" for number in range(33)}, 106, "33 tags, at most 32 are allowed"),
        ({"x": "y" * 129}, 106, "a key or value of tags has 129 bytes, at most 128 are allowed"),
        ({"ß" * 65: "y"}, 106, "a key or value of tags has 130 bytes, at most 128 are allowed"),
    ],
)
def test_anything_else_is_refused_and_says_why(value: Any, code: int, why: str) -> None:  # Any: JSON
    with pytest.raises(ClientError) as caught:
        check_tags(value)

    assert (caught.value.error.code, caught.value.detail) == (code, why)
