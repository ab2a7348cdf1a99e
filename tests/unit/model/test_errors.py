from __future__ import annotations

import pytest

from roomcast.model.errors import DISCONNECTS, SHUTDOWN, ApplicationError, ClientError, Disconnect, ErrorCode, Refused


def test_error_codes_and_messages_are_unique() -> None:
    assert len({error.code for error in ErrorCode}) == len(ErrorCode)
    assert len({error.message for error in ErrorCode}) == len(ErrorCode)


def test_disconnect_codes_are_unique_and_may_stand_in_a_close_frame() -> None:
    assert len({disconnect.code for disconnect in DISCONNECTS}) == len(DISCONNECTS)
    for disconnect in DISCONNECTS:
        assert disconnect.code == 1003 or 3000 <= disconnect.code <= 3999
        assert 0 < len(disconnect.reason.encode()) <= 123


def test_client_error_says_the_kind_and_the_detail() -> None:
    error = ClientError(ErrorCode.BAD_REQUEST, "room name holds a control character")

    assert str(error) == "bad request: room name holds a control character"
    assert error.error.code == 107


def test_an_application_has_errors_of_its_own() -> None:
    for code in (400, 1999):
        error = ApplicationError(code, "no spam", is_temporary=True)
        assert (error.code, error.message, error.is_temporary) == (code, "no spam", True)
    assert not {error.code for error in ErrorCode} & set(range(400, 2000))


@pytest.mark.parametrize(("code", "message"), [(399, "x"), (2000, "x"), (100, "x"), (400, "x" * 1025)])
def test_an_error_that_no_client_could_be_sent_is_refused(code: int, message: str) -> None:
    with pytest.raises(ValueError, match=str(code)):
        ApplicationError(code, message)


def test_an_application_ends_connections_by_codes_of_its_own_or_of_the_table() -> None:
    for disconnect in (Disconnect(4000, "x" * 123), Disconnect(4999, ""), SHUTDOWN):
        assert Refused(disconnect).disconnect == disconnect


@pytest.mark.parametrize(
    "disconnect",
    [
        Disconnect(3999, "x"),
        Disconnect(5000, "x"),
        Disconnect(1000, ""),
        Disconnect(3001, "other"),
        Disconnect(4000, "\u00e4" * 62),
    ],
)
def test_a_disconnect_that_no_close_frame_could_hold_is_refused(disconnect: Disconnect) -> None:
    with pytest.raises(ValueError, match=str(disconnect.code)):
        Refused(disconnect)
