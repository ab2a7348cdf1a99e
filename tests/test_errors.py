from __future__ import annotations

from service.errors import DISCONNECTS, ClientError, ErrorCode


def test_error_codes_and_messages_are_unique() -> None:
    assert len({error.code for error in ErrorCode}) == len(ErrorCode)
    assert len({error.message for error in ErrorCode}) == len(ErrorCode)


def test_disconnect_codes_are_unique_and_may_stand_in_a_close_frame() -> None:
    assert len({disconnect.code for disconnect in DISCONNECTS}) == len(DISCONNECTS)
    for disconnect in DISCONNECTS:
        assert disconnect.code in {1003} or 3000 <= disconnect.code <= 3999
        assert 0 < len(disconnect.reason.encode()) <= 123


def test_client_error_says_the_kind_and_the_detail() -> None:
    error = ClientError(ErrorCode.BAD_REQUEST, "room name holds a control character")

    assert str(error) == "bad request: room name holds a control character"
    assert error.error.code == 107
