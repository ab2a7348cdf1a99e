from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.model.channel_patterns import MAX_PATTERN_LENGTH, compile_glob
from roomcast.model.errors import ClientError


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("", ["room:a", "x"], []),
        ("*", ["room:a", "x"], []),
        ("room:*", ["room:", "room:a", "room:a/b:c"], ["xroom:a", "roo"]),
        ("room:?", ["room:a", "room:ö"], ["room:", "room:ab"]),
        ("room:[a-c]", ["room:b"], ["room:d", "room:"]),
        ("room:[!a-c]", ["room:d"], ["room:b"]),
        ("{room,game}:a", ["room:a", "game:a"], ["user:a", "room,game:a"]),
        ("a{b,{c,d}e,}", ["ab", "ace", "ade", "a"], ["ac", "abce"]),
        ("**", ["room:a"], []),
        ("a.b", ["a.b"], ["axb"]),
        ("größe*", ["größer"], ["grosse"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = compile_glob(pattern)

    assert [name for name in [*matching, *others] if glob.match(name)] == matching


@pytest.mark.parametrize("pattern", ["{", "}", "a{b", "{a,{b}", "}{", "{a,b}" * 7])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ClientError, match=r"brace|64 alternatives"):
        compile_glob(pattern)


@given(st.text("ab*?[]!-{},:", max_size=40))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    try:
        glob = compile_glob(pattern)
    except ClientError:
        return
    glob.match("room:a")


def test_a_malicious_pattern_takes_no_longer_than_another() -> None:
    glob = compile_glob(("*a" * MAX_PATTERN_LENGTH)[: MAX_PATTERN_LENGTH - 1] + "b")

    started_at_s = time.process_time()
    assert glob.match("a" * 255) is None
    assert time.process_time() - started_at_s < 0.1
