from __future__ import annotations

import base64
import functools
from typing import Any

import pytest

from roomcast.auth import ConnectionClaims, InvalidToken, Override, SubscriptionClaims, SubscriptionOptions
from roomcast.auth.claims import MAX_GRANTS, connection_claims, subscription_claims
from roomcast.auth.permissions import Action, Grant

# JSON that is read, and cannot be written again.
_DEEP: list[Any] = functools.reduce(lambda inner, _: [inner], range(3000), [])


def base64_of(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def test_every_claim_of_a_connection_token() -> None:
    claims = connection_claims(
        {
            "sub": "42",
            "exp": 2_000_000_000,
            "iat": 1,
            "jti": "x",
            "info": {"name": "Ada"},
            "channels": ["room:a", "$room:b"],
            "subs": {"room:c": {"info": [1], "data": {"hello": 1}, "override": {"presence": {"value": False}}}},
            "meta": {"plan": "pro"},
            "permissions": [{"channels": ["room:*", "draw:*"], "allow": ["subscribe", "publish"]}],
            "something": "else",
        }
    )

    actions = frozenset({Action.SUBSCRIBE, Action.PUBLISH})
    assert claims == ConnectionClaims(
        user="42",
        expire_at_s=2_000_000_000,
        info=b'{"name":"Ada"}',
        channels=("room:a", "$room:b"),
        subs={
            "room:c": SubscriptionOptions(info=b"[1]", data=b'{"hello":1}', override=Override(presence=False)),
        },
        meta=b'{"plan":"pro"}',
        grants=(Grant("room:*", actions), Grant("draw:*", actions)),
    )


def test_every_claim_of_a_subscription_token() -> None:
    claims = subscription_claims(
        {
            "sub": "42",
            "channel": "$room:a",
            "exp": 2_000_000_000,
            "info": "x",
            "data": 1,
            "override": {"recover": {"value": True}},
        }
    )

    assert claims == SubscriptionClaims(
        user="42",
        channel="$room:a",
        expire_at_s=2_000_000_000,
        info=b'"x"',
        data=b"1",
        override=Override(recover=True),
    )


def test_a_token_that_says_nothing_is_of_nobody_for_ever() -> None:
    assert connection_claims({}) == ConnectionClaims(user="", subs={})
    assert subscription_claims({"channel": "room:a"}) == SubscriptionClaims(user="", channel="room:a")


def test_claims_that_are_null_are_as_if_they_were_not_there() -> None:
    names = ("sub", "exp", "expire_at", "info", "b64info", "channels", "subs", "meta", "permissions", "channel")
    options = dict.fromkeys(("info", "b64info", "data", "b64data", "override"))
    overrides = {"presence": None, "join_leave": {"value": None}}

    assert connection_claims(dict.fromkeys(names)) == connection_claims({})
    assert connection_claims({"subs": {"room:a": None}}) == connection_claims({"subs": {"room:a": {}}})
    assert connection_claims({"subs": {"room:a": options}}) == connection_claims({"subs": {"room:a": {}}})
    assert subscription_claims({"channel": "room:a", **options, "override": overrides}).override == Override(
        join_leave=False
    )


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, None),
        ({"exp": 100}, 100),
        ({"exp": 100.9}, 100),
        ({"exp": 100, "expire_at": 200}, 200),
        ({"exp": 100, "expire_at": 0}, None),
        ({"expire_at": 200}, 200),
    ],
)
def test_a_connection_ends_with_its_token_unless_expire_at_says_otherwise(
    claims: dict[str, Any], expected: int | None
) -> None:
    assert connection_claims(claims).expire_at_s == expected
    assert subscription_claims({"channel": "room:a", **claims}).expire_at_s == expected


def test_each_kind_of_token_is_taken_for_its_own_purpose_alone() -> None:
    with pytest.raises(InvalidToken, match="subscription token"):
        connection_claims({"sub": "42", "channel": "room:a"})
    with pytest.raises(InvalidToken, match="channel"):
        subscription_claims({"sub": "42"})


def test_json_in_base64_goes_before_json() -> None:
    options = {"info": 1, "b64info": base64_of('{"a": 1}'), "data": 2, "b64data": base64_of("[]")}

    assert connection_claims({"info": 1, "b64info": base64_of('{"a": 1}')}).info == b'{"a":1}'
    assert connection_claims({"subs": {"room:a": options}}).subs["room:a"] == SubscriptionOptions(
        info=b'{"a":1}', data=b"[]"
    )
    assert subscription_claims({"channel": "room:a", **options}).data == b"[]"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"presence": True}, Override(presence=True)),
        ({"join_leave": False}, Override(join_leave=False)),
        ({"force_push_join_leave": True}, Override(push_join_leave=True)),
        ({"position": True}, Override(position=True)),
        ({"force_positioning": True}, Override(position=True)),
        ({"recover": False}, Override(recover=False)),
        ({"force_recovery": False, "recover": True}, Override(recover=False)),
        ({}, Override()),
    ],
)
def test_overrides_have_their_names_of_today_and_of_before(names: dict[str, bool], expected: Override) -> None:
    override = {name: {"value": value} for name, value in names.items()}

    assert subscription_claims({"channel": "room:a", "override": override}).override == expected


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"sub": 42}, "sub"),
        ({"sub": "x" * 129}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "{a}"}, "sub"),
        ({"exp": "soon"}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"exp": 1_700_000_000_000}, "exp"),
        ({"expire_at": -1}, "expire_at"),
        ({"info": {"a": "x" * 1024}}, "info"),
        ({"b64info": "***"}, "info"),
        ({"b64info": "\x80"}, "info"),
        ({"b64info": base64_of("not json")}, "info"),
        ({"b64info": base64_of(b"\xff\x00")}, "info"),
        ({"b64info": 5}, "b64info"),
        ({"channels": "room:a"}, "channels"),
        ({"channels": ["room:a", 5]}, "channels"),
        ({"channels": [""]}, "channels"),
        ({"channels": ["x" * 256]}, "channels"),
        ({"channels": ["a{b}"]}, "channels"),
        ({"subs": ["room:a"]}, "subs"),
        ({"subs": {"": {}}}, "subs"),
        ({"subs": {"room:a": {"info": "x" * 1024}}}, "subs"),
        ({"subs": {"room:a": {"b64data": "*"}}}, "subs"),
        ({"subs": {"room:a": {"override": {"presence": True}}}}, "subs"),
        ({"subs": {"room:a": {"override": {"presence": {"value": "yes"}}}}}, "subs"),
        ({"info": _DEEP}, "info"),
        ({"meta": _DEEP}, "meta"),
        ({"subs": {"room:a": {"data": _DEEP}}}, "subs"),
        ({"permissions": [{"channels": ["room:*"]}]}, "permissions"),
        ({"permissions": [{"channels": ["room:*"], "allow": ["fly"]}]}, "permissions"),
        ({"permissions": [{"channels": "room:*", "allow": ["publish"]}]}, "permissions"),
        ({"permissions": [{"channels": [""], "allow": ["publish"]}]}, "permissions"),
        ({"permissions": [{"channels": ["x" * 256], "allow": ["publish"]}]}, "permissions"),
        ({"permissions": [{"channels": ["a"], "allow": ["publish"], "deny": []}]}, "permissions"),
        ({"permissions": [{"channels": [f"a{n}" for n in range(MAX_GRANTS + 1)], "allow": []}]}, "permissions"),
    ],
)
def test_a_claim_that_cannot_be_used_is_named(claims: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidToken, match=f"^{named}"):
        connection_claims(claims)


@pytest.mark.parametrize(
    "permissions",
    [
        ["read:items", "write:items"],  # Auth0 with RBAC
        [],
        [{"rsid": "d2fe9843", "rsname": "Hello", "scopes": ["view"]}],  # Keycloak's authorization services
        "read write",
        {"admin": True},
        ["read:items", None, 5, {"channels": ["room:*"], "allow": ["publish"]}],
    ],
)
def test_permissions_of_an_identity_provider_are_not_ours(permissions: Any) -> None:
    ours = [Grant("room:*", frozenset({Action.PUBLISH}))] if "channels" in str(permissions) else []

    assert list(connection_claims({"sub": "42", "permissions": permissions}).grants) == ours


def test_a_subscription_token_s_channel_is_checked() -> None:
    for channel in (None, "", "x" * 256, "a\x00b", 5):
        with pytest.raises(InvalidToken, match=r"^channel"):
            subscription_claims({"channel": channel})
