from __future__ import annotations

import pytest

from roomcast.model.client_info import check_info
from roomcast.model.errors import ClientError, ErrorCode


@pytest.mark.parametrize(
    ("text", "info"),
    [('{"a": 1}', b'{"a":1}'), ("[1,\n2]", b"[1,2]"), ('"' + "x" * 1022 + '"', b'"' + b"x" * 1022 + b'"')],
)
def test_info_is_compact_json_without_newlines(text: str, info: bytes) -> None:
    assert check_info(text) == info


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nonsense", ErrorCode.BAD_REQUEST),
        ("NaN", ErrorCode.BAD_REQUEST),
        ("[" * 1024, ErrorCode.BAD_REQUEST),
        ("1e400", ErrorCode.BAD_REQUEST),
        ('"\udc80"', ErrorCode.BAD_REQUEST),
        ('"' + "x" * 1023 + '"', ErrorCode.LIMIT_EXCEEDED),
        ('"' + "\u00fc" * 512 + '"', ErrorCode.LIMIT_EXCEEDED),
    ],
)
def test_info_that_is_none_or_too_much_is_refused(text: str, error: ErrorCode) -> None:
    with pytest.raises(ClientError) as refusal:
        check_info(text)

    assert refusal.value.error is error
