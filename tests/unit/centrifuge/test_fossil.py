"""Deltas: the format's known answers, their results in the clients' own readers, and a limit of their cost."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import time
from pathlib import Path

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.centrifuge.fossil import create_delta

# One of each length in UTF-8, so that shrinking finds the cut character.
CHARACTERS = 'ab"\u00e9\u20ac\U0001f600'


def applied(before: bytes, delta: bytes) -> bytes:
    """Return the result of a delta in centrifuge-python, which checks the sizes and the checksum."""
    return bytes(apply_delta(before, delta))


def pieces(draw: st.DrawFn, parts: st.SearchStrategy[list[bytes]]) -> tuple[bytes, bytes]:
    """Return two payloads made of the same pieces, some of them in both, in any order and number."""
    pool = draw(parts)
    choose = st.lists(st.sampled_from(pool), max_size=12)
    return b"".join(draw(choose)), b"".join(draw(choose))


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    text = st.text(CHARACTERS, max_size=40).map(str.encode)
    return pieces(draw, st.lists(text, min_size=1, max_size=6))


@st.composite
def binaries(draw: st.DrawFn) -> tuple[bytes, bytes]:
    return pieces(draw, st.lists(st.binary(max_size=80), min_size=1, max_size=6))


@pytest.mark.parametrize(
    ("before", "after", "delta"),
    [
        (b"", b"", b"0\n0;"),
        (b"", b"abcd", b"4\n4:abcd1XObD_;"),
        (b"", b"abcde", b"5\n5:abcde36ObD_;"),
        (b"0123456789abcdef", b"0123456789abcdef", b"G\nG@0,12xn;"),
        (b"0123456789", b"0123456789!", b"B\nA@0,1:!2Sctaf;"),
        (b"!0123456789", b"?0123456789", b"B\n1:?A@1,2ec9yd;"),
        (b'{"a":1,"b":2}', b'{"a":1,"b":3}', b"D\nB@0,2:3}2KTSTs;"),
        (b'{"a":2,"b":2}', b'{"a":1,"b":3}', b'D\nD:{"a":1,"b":3}2KTSTs;'),
    ],
    ids=["empty", "a word", "a word and a byte", "the same", "appended", "the first byte", "nearly all", "too little"],
)
def test_a_delta_is_in_the_fossil_format(before: bytes, after: bytes, delta: bytes) -> None:
    """The checksums are those of the npm package fossil-delta 2.0.0."""
    assert create_delta(before, after, is_text=True) == delta


@given(binaries())
def test_a_delta_makes_the_new_payload_of_the_old_one(payloads: tuple[bytes, bytes]) -> None:
    before, after = payloads

    assert applied(before, create_delta(before, after, is_text=False)) == after


@given(texts())
@example(("é".encode() * 40, ("è" + "é" * 39).encode()))
@example((("é" * 39 + "ê").encode(), ("é" * 39 + "ë").encode()))
@example((b"a" + "€".encode() * 40, b"b\xe2\x82\xad" + "€".encode() * 40))
@example((b"abcdefg\xc3\xa9", b"abcdefg\xc3\xa8"))
@example((b"\xc2\xa9" + b"a" * 20, b"\xc3\xa9" + b"a" * 20))
def test_a_delta_of_texts_is_text_and_makes_the_new_one_of_the_old_one(payloads: tuple[bytes, bytes]) -> None:
    before, after = payloads

    delta = create_delta(before, after, is_text=True).decode().encode()

    assert applied(before, delta) == after


def dashboard(seed: int) -> bytes:
    """Return about 4 KiB of JSON as a dashboard gets it: the same keys again and again, other numbers."""
    values = random.Random(seed)
    rows = [{"host": f"node-{row:03}", "cpu": round(values.random() * 100, 2), "text": "日本語"} for row in range(66)]
    return json.dumps(rows, ensure_ascii=False).encode()


def test_a_delta_of_a_table_holds_the_cells_that_changed() -> None:
    before = dashboard(1)
    rows = json.loads(before)
    rows[7]["cpu"] = 1.25
    rows[60]["host"] = "a new one"
    after = json.dumps(rows, ensure_ascii=False).encode()

    delta = create_delta(before, after, is_text=True)

    assert len(delta) < 60
    assert applied(before, delta) == after


def test_what_moved_is_copied_from_where_it_was() -> None:
    before = dashboard(1)
    half = before.index(b'{"host": "node-033"')
    after = b"[" + before[half:-1] + b", " + before[1 : half - 2] + b"]"

    delta = create_delta(before, after, is_text=True)

    assert len(delta) < 60
    assert applied(before, delta) == after


def test_rows_that_differ_little_are_copied_each_from_its_own() -> None:
    rows = [f'{{"name of the host": "{row:04}", "what it is for": "{row * 7919:08}"}}' for row in range(50)]
    before = ",".join(rows).encode()
    changed = [row.replace('"name of', '"Name of') for row in rows]
    after = ",".join(["a new row", *changed]).encode()

    delta = create_delta(before, after, is_text=True)

    # 16 bytes a row; copied from the first row that is like it, only their keys would be copied.
    assert len(delta) < 50 * 18
    assert applied(before, delta) == after


def test_payloads_that_share_nothing_are_inserted_whole() -> None:
    before, after = b"a" * 1000, b"b" * 1000

    delta = create_delta(before, after, is_text=True)

    assert delta.startswith(b"Fd\nFd:" + after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a" * 65536, b"b" + b"a" * 65534 + b"b"),
        (b"a" * 65536, b"b".join([b"a" * 16] * 3800)),
        ((b"a" * 40 + b"b") * 1600, (b"b" + b"a" * 17) * 3600),
        ("é".encode() * 32768, b"x" + "é".encode() * 32700 + b"y"),
        (random.Random(1).randbytes(65536), random.Random(2).randbytes(65536)),
        (b"a" * (1 << 20), b"b".join([b"a" * 16] * (1 << 16))),
    ],
    ids=["same byte", "holes", "nearly the same blocks", "same character", "nothing shared", "large"],
)
def test_hostile_payloads_cost_no_more_than_a_bounded_time(before: bytes, after: bytes) -> None:
    started = time.process_time()
    delta = create_delta(before, after, is_text=False)
    spent_s = time.process_time() - started

    # 2 to 20 ms here; trying every place that has the same block, as one might, takes minutes.
    assert spent_s < 0.5
    assert applied(before, delta) == after


def test_there_is_a_bound_on_how_much_is_copied() -> None:
    before, after = b"a" * (1 << 18), b"b".join([b"a" * 40] * 6400)

    delta = create_delta(before, after, is_text=False)

    assert 1000 < delta.count(b"@") < 3000


def test_the_largest_payload_is_compared_in_a_bounded_time() -> None:
    before, after = (random.Random(seed).randbytes(16 << 20) for seed in (1, 2))

    started = time.process_time()
    create_delta(before, after, is_text=False)
    spent_s = time.process_time() - started

    # 0.12 s here, most of it the checksum; 1.6 s if every block were looked up.
    assert spent_s < 0.8


@pytest.mark.node
def test_centrifuge_js_applies_the_deltas(centrifuge_js: Path) -> None:
    before = dashboard(1)
    others = [dashboard(2), before[:2000] + b" " + before[2000:-1] + b', "\xc3\xa9"]', b"[]", before, b'"\xe2\x82\xac"']
    cases = [(old, new) for old in (before, *others) for new in (before, *others)]
    script = centrifuge_js / "apply.mjs"
    script.write_text(
        """
        import { Centrifuge } from 'centrifuge';
        import { Centrifuge as Binary } from 'centrifuge/build/protobuf';
        import { readFileSync, writeSync } from 'node:fs';
        const json = new Centrifuge('ws://localhost')._codec;
        const binary = new Binary('ws://localhost', { protocol: 'protobuf' })._codec;
        const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'));
        const applied = JSON.parse(readFileSync(0)).map(({ before, text, raw }) => [
            json.applyDeltaIfNeeded({ delta: true, data: text }, bytes(before)).newPrevValue,
            binary.applyDeltaIfNeeded({ delta: true, data: bytes(raw) }, bytes(before)).newPrevValue,
        ].map((value) => Buffer.from(value).toString('base64')));
        writeSync(1, JSON.stringify(applied));
        """
    )
    given_cases = [
        {
            "before": base64.b64encode(old).decode(),
            "text": create_delta(old, new, is_text=True).decode(),
            "raw": base64.b64encode(create_delta(old, new, is_text=False)).decode(),
        }
        for old, new in cases
    ]

    done = subprocess.run(
        ["node", script.name],
        cwd=centrifuge_js,
        input=json.dumps(given_cases),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert [[base64.b64decode(each) for each in pair] for pair in json.loads(done.stdout)] == [
        [new, new] for _, new in cases
    ]
