from __future__ import annotations

from typing import Any

import pytest

from roomcast.auth import Override
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.interface import (
    Caller,
    ConnectAnswer,
    MapPublishAnswer,
    MapRemoveAnswer,
    NoAnswer,
    PublishAnswer,
    RefreshAnswer,
    SubscribeAnswer,
)
from roomcast.model.maps import KeyMode

JSON = Caller("n-1", "websocket")
BINARY = Caller("n-1", "websocket", "protobuf")
# Info that cannot be serialised would break the presence of a channel, and the join of its client.
DEEP = b"[" * 3000 + b"]" * 3000
check = AnswerCheck(max_message_bytes=100)


def test_a_good_answer_is_as_it_was() -> None:
    news = SubscribeAnswer(b'{"r": 1}', b"[1]", 7, Override(presence=True, join_leave=False))
    connect = ConnectAnswer("42", b"{}", b'"hi"', b'{"plan": "pro"}', {"room:news": news}, 2_000_000_000)

    assert check.connect(connect, JSON) == connect
    assert check.connect(ConnectAnswer(), JSON) == ConnectAnswer()
    assert check.publish(PublishAnswer(skip_history=True), JSON) == PublishAnswer(skip_history=True)
    value = MapPublishAnswer("k", b"[1]", {"a": "b"}, KeyMode.IF_EXISTS, "once", 2**53 - 1, "v")
    assert check.map_publish(value, JSON) == value
    assert check.map_publish(MapPublishAnswer(), JSON) == MapPublishAnswer()
    assert check.map_publish(MapPublishAnswer(data=b""), JSON) == MapPublishAnswer(data=b""), "a value without data"
    assert check.map_remove(MapRemoveAnswer("k", "once"), JSON) == MapRemoveAnswer("k", "once")
    assert check.refresh(RefreshAnswer(5, info=b"{}"), JSON) == RefreshAnswer(5, info=b"{}")
    assert check.rpc(b"", JSON) == b""


def test_line_breaks_between_json_values_are_taken_out_and_those_in_texts_stay() -> None:
    assert check.rpc(b'{\n  "a": "x\\ny",\r\n  "b": 1\n}', JSON) == b'{   "a": "x\\ny",    "b": 1 }'


def test_a_client_that_takes_bytes_may_be_sent_any() -> None:
    assert check.rpc(b"\x00\n\xff", BINARY) == b"\x00\n\xff"
    assert check.publish(PublishAnswer(b""), BINARY) == PublishAnswer(b"")


WRONG: list[tuple[str, Any, str]] = [
    ("connect", None, "the answer is a NoneType and not a ConnectAnswer"),
    ("connect", {"user": "42"}, "the answer is a dict"),
    ("connect", ConnectAnswer(user=42), "user is a int"),  # type: ignore[arg-type]  # as in an application's code
    ("connect", ConnectAnswer(user="a\nb"), "user holds a control character"),
    ("connect", ConnectAnswer(user="x" * 129), "user must be 1 to 128 bytes"),
    ("connect", ConnectAnswer(info=b"{"), "info is not JSON"),
    ("connect", ConnectAnswer(info=b'"%s"' % (b"x" * 1024)), "info has 1026 bytes"),
    ("connect", ConnectAnswer(data=b"\xff"), "data is not JSON"),
    ("connect", ConnectAnswer(data="{}"), "data is a str and not bytes"),  # type: ignore[arg-type]  # as above
    ("connect", ConnectAnswer(meta=b'"%s"' % (b"x" * 20_000)), "meta has 20002 bytes"),
    ("connect", ConnectAnswer(channels=["room:a"]), "channels is a list"),  # type: ignore[arg-type]  # as above
    ("connect", ConnectAnswer(channels={"": SubscribeAnswer()}), "channel must be 1 to 255 bytes"),
    ("connect", ConnectAnswer(channels={1: SubscribeAnswer()}), "name is a int"),  # type: ignore[dict-item]  # as above
    ("connect", ConnectAnswer(channels={"a": {}}), "not a SubscribeAnswer"),  # type: ignore[dict-item]  # as above
    ("connect", ConnectAnswer(channels={"a": SubscribeAnswer(info=b"?")}), "info is not JSON"),
    ("connect", ConnectAnswer(expire_at_s=-1), "expire_at_s must be 0 to "),
    ("connect", ConnectAnswer(expire_at_s=1.5), "expire_at_s is a float"),  # type: ignore[arg-type]  # as above
    ("subscribe", True, "the answer is a bool"),
    ("subscribe", SubscribeAnswer(expire_at_s=2**53), "expire_at_s must be 0 to "),
    ("subscribe", SubscribeAnswer(expire_at_s=True), "expire_at_s is a bool"),
    ("subscribe", SubscribeAnswer(override={}), "override is a dict"),  # type: ignore[arg-type]  # as above
    ("subscribe", SubscribeAnswer(override=Override(presence=1)), "presence is a int"),  # type: ignore[arg-type]  # as above
    ("publish", b"1", "the answer is a bytes"),
    ("publish", PublishAnswer(b""), "data is empty"),
    ("publish", PublishAnswer(b"%d" % 10**100), "data has 101 bytes, at most 100 are allowed"),
    ("map_publish", PublishAnswer(), "the answer is a PublishAnswer and not a MapPublishAnswer"),
    ("map_publish", MapPublishAnswer(key=7), "key is a int"),  # type: ignore[arg-type]  # as above
    ("map_publish", MapPublishAnswer(key="k" * 256), "key must be 1 to 255 bytes, this one has 256"),
    ("map_publish", MapPublishAnswer(key="a\nb"), "key holds a control character"),
    ("map_publish", MapPublishAnswer(key="\ud800"), "key is not valid UTF-8"),
    ("map_publish", MapPublishAnswer(data=b"{"), "data is not JSON"),
    ("map_publish", MapPublishAnswer(data=b"%d" % 10**100), "data has 101 bytes"),
    ("map_publish", MapPublishAnswer(tags=["a"]), "tags is no object"),  # type: ignore[arg-type]  # as above
    ("map_publish", MapPublishAnswer(tags={"a": 1}), "keys and values of tags are texts"),  # type: ignore[dict-item]
    ("map_publish", MapPublishAnswer(tags={"a": "x" * 129}), "at most 128 are allowed"),
    ("map_publish", MapPublishAnswer(key_mode="if_new"), "key_mode is a str"),  # type: ignore[arg-type]  # as above
    ("map_publish", MapPublishAnswer(version=-1), "version must be 0 to 9007199254740991, not -1"),
    ("map_publish", MapPublishAnswer(version=True), "version is a bool"),
    ("map_publish", MapPublishAnswer(idempotency_key="k" * 129), "idempotency_key has 129 characters"),
    ("map_publish", MapPublishAnswer(version_epoch="\ud800"), "version_epoch is not valid UTF-8"),
    ("map_remove", None, "the answer is a NoneType and not a MapRemoveAnswer"),
    ("map_remove", MapRemoveAnswer("k" * 256), "key must be"),
    ("map_remove", MapRemoveAnswer("k", 1), "idempotency_key is a int"),  # type: ignore[arg-type]  # as above
    ("rpc", None, "data is a NoneType"),
    ("rpc", b"no json", "data is not JSON"),
    ("connect", ConnectAnswer(info=b"1e400"), "info is not JSON: 1e400 is out of range"),
    ("connect", ConnectAnswer(meta=b"\n" + DEEP), "meta is not JSON: nested too deeply"),
    ("refresh", 5, "the answer is a int"),
    ("refresh", RefreshAnswer(info=b"?"), "info is not JSON"),
]


@pytest.mark.parametrize(("method", "answer", "reason"), WRONG)
def test_what_no_client_can_be_sent_is_no_answer(method: str, answer: Any, reason: str) -> None:
    checks = {
        "connect": check.connect,
        "subscribe": check.subscribe,
        "publish": check.publish,
        "map_publish": check.map_publish,
        "map_remove": check.map_remove,
        "rpc": check.rpc,
        "refresh": check.refresh,
    }

    with pytest.raises(NoAnswer, match=reason):
        checks[method](answer, JSON)
