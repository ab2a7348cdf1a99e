"""One shape of overrides for tokens, the server API and the proxy."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from roomcast.api.request_models import SubscribeRequest, validated
from roomcast.auth import InvalidToken, Override
from roomcast.auth.claims import subscription_claims
from roomcast.hooks.interface import NoAnswer
from roomcast.hooks.proxy_messages import SubscribeResult, read_reply
from roomcast.model.errors import ClientError


def in_a_token(override: Any) -> Override | None:
    return subscription_claims({"channel": "room:a", "override": override}).override


def in_the_server_api(override: Any) -> Override | None:
    wanted = validated(SubscribeRequest, {"user": "ada", "channel": "room:a", "override": override})
    return in_a_token(wanted.model_dump(exclude_none=True)["override"])


def in_the_proxy(override: Any) -> Override | None:
    reply = orjson.dumps({"result": {"override": override}})
    return read_reply(reply, SubscribeResult).answer().override


PLACES = [in_a_token, in_the_server_api, in_the_proxy]


@pytest.mark.parametrize("place", PLACES)
def test_an_override_is_the_same_wherever_it_is_sent(place: Any) -> None:
    assert place({"presence": {"value": True}, "force_recovery": {"value": False}}) == Override(
        presence=True, recover=False
    )
    assert place({"position": {"value": True}, "join_leave": {}}) == Override(position=True, join_leave=False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("flag", [True, {"value": "yes"}, {"value": 1}])
def test_an_override_is_a_bool_in_an_object(place: Any, flag: Any) -> None:
    with pytest.raises((InvalidToken, ClientError, NoAnswer), match="override"):
        place({"presence": flag})
