"""The tags of a publication: a few short texts by name, by which subscribers can filter."""

from __future__ import annotations

from collections.abc import Mapping

from roomcast.model.errors import ClientError, ErrorCode

MAX_TAG_COUNT = 32
MAX_TAG_BYTES = 128


def check_tags(value: object) -> Mapping[str, str] | None:
    """Return tags of a request: at most 32, with keys and values of at most 128 bytes of UTF-8.

    Returns: None for an empty object, or None.
    Raises: ClientError 107 for anything but an object of strings, 106 for more.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ClientError(ErrorCode.BAD_REQUEST, "tags is no object")
    if len(value) > MAX_TAG_COUNT:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"{len(value)} tags, at most {MAX_TAG_COUNT} are allowed")
    for key, text in value.items():
        _check_text(key)
        _check_text(text)
    return value or None


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise ClientError(ErrorCode.BAD_REQUEST, "keys and values of tags are texts")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, "tags are not valid UTF-8") from None
    if size_bytes > MAX_TAG_BYTES:
        detail = f"a key or value of tags has {size_bytes} bytes, at most {MAX_TAG_BYTES} are allowed"
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, detail)
