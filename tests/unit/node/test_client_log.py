from __future__ import annotations

from structlog.testing import capture_logs

from roomcast.model.errors import Rejection
from roomcast.node.client_log import Rejections
from tests.support.fakes import Clock


def test_a_flood_of_one_reason_is_counted_and_hides_no_other() -> None:
    clock = Clock()
    rejections = Rejections(clock)

    with capture_logs() as lines:
        for number in range(1000):
            rejections.note(Rejection.INVALID_TOKEN, f"203.0.113.{number % 256}", "not a JWT")
        rejections.note(Rejection.WRONG_API_KEY, "198.51.100.1", "wrong X-API-Key", conn=7)

    assert rejections.counts == {Rejection.INVALID_TOKEN: 1000, Rejection.WRONG_API_KEY: 1}
    assert [line["event"] for line in lines] == ["admission.refused_token"] * 60 + ["session.refused_key"]

    clock.now_s += 60
    with capture_logs() as lines:
        rejections.note(Rejection.INVALID_TOKEN, "203.0.113.1", "not a JWT")

    assert [(line["event"], line["cause"]) for line in lines] == [
        ("admission.more_refused", "invalid_token"),
        ("admission.refused_token", "invalid_token"),
    ]
    assert lines[0]["count"] == 940
