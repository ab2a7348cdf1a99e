from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.auth.permissions import Action, Client, Grant, may, personal_channel, users_of
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace, Namespaces, Who

OTHERS = [Action.PUBLISH, Action.HISTORY, Action.PRESENCE, Action.REMOVE]
NOBODY, ADA, TRUSTED = Client(), Client("ada"), Client("ada", is_trusted=True)


def namespace(who: Who) -> Namespace:
    return Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=MapMode.PERSISTENT),
        may_subscribe=who,
        may_publish=who,
        may_remove=who,
        may_read_history=who,
        may_see_presence=who,
    )


def granted(*patterns: str, user: str = "ada") -> Client:
    return Client(user, tuple(Grant(pattern, frozenset(Action)) for pattern in patterns))


def is_allowed(
    action: Action,
    channel: str,
    who: Who,
    client: Client,
    *,
    is_subscribed: bool = False,
    has_token: bool = False,
) -> bool:
    try:
        may(action, channel, namespace(who), client, is_subscribed=is_subscribed, has_token=has_token)
    except ClientError as exc:
        return exc.error is not ErrorCode.PERMISSION_DENIED  # any other one would be wrong
    return True


@pytest.mark.parametrize(
    ("who", "client", "expected"),
    [
        (Who.NOBODY, NOBODY, False),
        (Who.NOBODY, ADA, False),
        (Who.NOBODY, TRUSTED, False),
        (Who.SUBSCRIBERS, NOBODY, True),
        (Who.SUBSCRIBERS, ADA, True),
        (Who.USERS, NOBODY, False),
        (Who.USERS, Client(is_trusted=True), False),
        (Who.USERS, ADA, True),
        (Who.USERS, TRUSTED, True),
        (Who.ANYONE, NOBODY, True),
        (Who.ANYONE, ADA, True),
    ],
)
def test_a_namespace_says_who_may_subscribe(who: Who, client: Client, expected: bool) -> None:
    assert is_allowed(Action.SUBSCRIBE, "room:a", who, client) is expected


@pytest.mark.parametrize("action", OTHERS)
@pytest.mark.parametrize(
    ("who", "client", "is_subscribed", "expected"),
    [
        (Who.NOBODY, ADA, True, False),
        (Who.NOBODY, TRUSTED, True, False),
        (Who.SUBSCRIBERS, ADA, False, False),
        (Who.SUBSCRIBERS, TRUSTED, False, False),
        (Who.SUBSCRIBERS, NOBODY, True, True),
        (Who.USERS, NOBODY, True, False),
        (Who.USERS, ADA, False, True),
        (Who.ANYONE, NOBODY, False, True),
    ],
)
def test_a_namespace_says_who_may_do_the_rest(
    action: Action, who: Who, client: Client, is_subscribed: bool, expected: bool
) -> None:
    assert is_allowed(action, "room:a", who, client, is_subscribed=is_subscribed) is expected


@pytest.mark.parametrize("action", OTHERS)
def test_each_action_has_an_option_of_its_own(action: Action) -> None:
    only = {
        Action.PUBLISH: Namespace(may_publish=Who.ANYONE),
        Action.HISTORY: Namespace(may_read_history=Who.ANYONE),
        Action.PRESENCE: Namespace(may_see_presence=Who.ANYONE),
        Action.REMOVE: Namespace(type=ChannelType.MAP, map=MapOptions(mode=MapMode.PERSISTENT), may_remove=Who.ANYONE),
    }

    for other, its_namespace in only.items():
        if other is action:
            may(action, "room:a", its_namespace, NOBODY, is_subscribed=False)
        else:
            with pytest.raises(ClientError):
                may(action, "room:a", its_namespace, NOBODY, is_subscribed=True)


def test_a_subscription_token_opens_whatever_channel_it_names() -> None:
    for channel in ("room:a", "$room:a", "room:#eve", "$room:#eve"):
        assert is_allowed(Action.SUBSCRIBE, channel, Who.NOBODY, NOBODY, has_token=True)


@pytest.mark.parametrize("action", OTHERS)
def test_a_subscription_token_opens_nothing_else(action: Action) -> None:
    assert not is_allowed(action, "room:a", Who.NOBODY, ADA, has_token=True)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (NOBODY, False),
        (ADA, False),
        (granted("*"), False),
        (granted("room:*"), False),
        (granted("$other:*"), False),
        (granted("$room:*"), True),
        (granted("$room:*", user=""), True),
        (granted("$*"), True),
        (TRUSTED, True),
    ],
)
def test_a_private_channel_needs_a_token_or_a_grant_that_says_private(client: Client, expected: bool) -> None:
    assert is_allowed(Action.SUBSCRIBE, "$room:a", Who.ANYONE, client) is expected
    for action in OTHERS:
        assert is_allowed(action, "$room:a", Who.ANYONE, client) is expected


def test_a_grant_for_a_private_channel_is_none_for_the_public_one() -> None:
    assert not is_allowed(Action.SUBSCRIBE, "room:a", Who.NOBODY, granted("$room:*"))


@pytest.mark.parametrize("action", OTHERS)
@pytest.mark.parametrize("channel", ["$room:a", "room:#ada", "$room:#ada"])
def test_in_a_private_or_limited_channel_only_subscribers_do_anything(action: Action, channel: str) -> None:
    assert is_allowed(action, channel, Who.ANYONE, NOBODY, is_subscribed=True)
    assert not is_allowed(action, channel, Who.ANYONE, ADA)
    assert not is_allowed(action, channel, Who.NOBODY, ADA, is_subscribed=True)


@pytest.mark.parametrize(
    ("channel", "client", "expected"),
    [
        ("dialog:#ada", ADA, True),
        ("dialog:#ada,bob", Client("bob"), True),
        ("dialog:x#bob#ada", ADA, True),
        ("dialog:x#ada#bob", ADA, False),
        ("dialog:#ada,bob", Client("eve"), False),
        ("dialog:#ada", Client("ad"), False),
        ("dialog:#ada", Client("ADA"), False),
        ("dialog:#ada,bob", Client("ada,bob"), False),
        ("dialog:#", ADA, False),
        ("dialog:#", NOBODY, False),
        ("dialog:#,", NOBODY, False),
        ("dialog:#ada", NOBODY, False),
        ("dialog:#ada", granted("*", user="eve"), False),
        ("dialog:#eve", TRUSTED, True),
    ],
)
def test_a_channel_that_names_users_is_theirs_alone(channel: str, client: Client, expected: bool) -> None:
    assert is_allowed(Action.SUBSCRIBE, channel, Who.ANYONE, client) is expected


def test_users_whom_a_channel_names_need_no_namespace_s_leave() -> None:
    assert is_allowed(Action.SUBSCRIBE, "user:#ada", Who.NOBODY, ADA)
    assert is_allowed(Action.SUBSCRIBE, "user:#ada", Who.NOBODY, TRUSTED)
    assert not is_allowed(Action.SUBSCRIBE, "user:#bob", Who.NOBODY, TRUSTED)


@pytest.mark.parametrize("action", Action)
def test_a_grant_opens_what_the_namespace_keeps_closed(action: Action) -> None:
    client = Client("ada", (Grant("room:*", frozenset({action})),))

    for other in Action:
        assert is_allowed(other, "room:a", Who.NOBODY, client) is (other is action)
    assert not is_allowed(action, "draw:a", Who.NOBODY, client)


@pytest.mark.parametrize(
    ("pattern", "channel", "expected"),
    [
        ("room:a", "room:a", True),
        ("room:a", "room:ab", False),
        ("room:*", "room:", True),
        ("room:*", "room:a:b#c", True),
        ("room:*", "rooms:a", False),
        ("*", "anything", True),
        ("draw:team-42-*", "draw:team-42-", True),
        ("draw:team-42-*", "draw:team-421", False),
        ("*:a", "room:a", True),
        ("*:a", "room:ab", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("a*b*b", "ab", False),
        ("a*bc*c", "abc", False),
        ("a**c", "ac", True),
        ("room:?", "room:a", False),
        ("room:[ab]", "room:a", False),
        ("room:.*", "room:abc", False),
    ],
)
def test_in_a_pattern_a_star_is_any_run_and_nothing_else_is_special(pattern: str, channel: str, expected: bool) -> None:
    assert Grant(pattern, frozenset(Action)).allows(Action.PUBLISH, channel) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_patterns_fit_what_a_regular_expression_says(pattern: str, name: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))

    assert Grant(pattern, frozenset(Action)).allows(Action.PUBLISH, name) is bool(re.fullmatch(expression, name))


def test_no_pattern_takes_long() -> None:
    """The regular expression for it would try more ways than there are seconds."""
    grant = Grant("*a" * 126 + "*b", frozenset(Action))
    started_s = time.process_time()

    assert not grant.allows(Action.PUBLISH, "a" * 255)

    assert time.process_time() - started_s < 0.1


@given(
    channel=st.text("ab$#,:*", min_size=1, max_size=12),
    who=st.sampled_from(Who),
    user=st.text("ab,", max_size=3),
    patterns=st.lists(st.text("ab$#,:*", max_size=5), max_size=3),
    is_subscribed=st.booleans(),
    action=st.sampled_from(Action),
)
def test_whatever_is_asked_a_limited_channel_lets_no_other_user_in(
    *, channel: str, who: Who, user: str, patterns: list[str], is_subscribed: bool, action: Action
) -> None:
    allowed = is_allowed(action, channel, who, granted(*patterns, user=user), is_subscribed=is_subscribed)

    users = users_of(channel)
    if allowed and users is not None:
        assert user in users if action is Action.SUBSCRIBE else is_subscribed
    if allowed and channel.startswith("$") and not is_subscribed:
        assert any(pattern.startswith("$") for pattern in patterns)


def test_a_personal_channel_is_its_user_s_alone() -> None:
    channel = personal_channel("user", "ada")

    assert channel == "user:#ada"
    assert users_of(channel) == frozenset({"ada"})


@pytest.mark.parametrize("user", ["", "ada,bob", "x#ada", ",", "ada,"])
def test_a_user_whose_name_would_be_read_as_others_has_no_personal_channel(user: str) -> None:
    assert personal_channel("user", user) is None


def test_a_personal_channel_without_a_namespace_names_none() -> None:
    assert personal_channel("", "ada") == "#ada"
    assert personal_channel("", "a:b") is None
    assert personal_channel("user", "a:b") == "user:#a:b"


def test_a_private_channel_is_of_the_namespace_behind_its_dollar() -> None:
    namespaces = Namespaces()

    assert namespaces.of("$room:a") is DEFAULTS["room"]
    for channel in ("$$room:a", "$a", "r$oom:a", "$:a"):
        with pytest.raises(ClientError):
            namespaces.of(channel)


def test_channels_without_a_namespace_are_in_the_default_one_if_there_is_one() -> None:
    default = Namespace(presence=True)
    namespaces = Namespaces(default=default)

    for channel in ("news", "#42", "$board", ":a", "$:a", "a.b"):
        assert namespaces.of(channel) is default
    for channel in ("default:a", "x:a", "#4:2", "$$room:a"):
        with pytest.raises(ClientError):
            namespaces.of(channel)
