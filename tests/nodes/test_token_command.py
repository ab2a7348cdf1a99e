"""`roomcast token` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.command_line import assert_one_line, roomcast
from tests.support.tokens import SECRET, now_s, private_key, public_pem, signed

token = partial(roomcast, "token")


def claims_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    claims: dict[str, Any] = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], audience="rooms")
    return claims


def test_it_makes_a_connection_token_that_it_accepts() -> None:
    made = token(
        "--user=42",
        "--ttl=15m",
        '--info={"name": "Ada"}',
        "--permit=room:*=subscribe,publish",
        "--permit=a=b=presence",
        secret=SECRET,
        token_audience="rooms",
        token_issuer="app",
    )

    claims = claims_of(made)
    assert 0 <= claims["iat"] - now_s() < 60
    assert claims.pop("exp") - claims.pop("iat") == 900
    assert claims == {
        "sub": "42",
        "aud": "rooms",
        "iss": "app",
        "info": {"name": "Ada"},
        "permissions": [
            {"channels": ["room:*"], "allow": ["subscribe", "publish"]},
            {"channels": ["a=b"], "allow": ["presence"]},
        ],
    }
    checked = token("--check", "-", stdin=made.stdout, secret=SECRET, token_audience="rooms", token_issuer="app")
    assert checked.returncode == 0, checked.stderr
    assert '"name": "Ada"' in checked.stdout
    assert checked.stdout.splitlines()[-1].startswith("accepted: ")


def test_it_makes_a_subscription_token_that_it_accepts() -> None:
    made = token("--user=42", "--channel=$room:a", "--ttl=7d", secret=SECRET, token_audience="rooms")

    claims = claims_of(made)
    assert (claims["channel"], claims["exp"] - claims["iat"]) == ("$room:a", 7 * 24 * 3600)
    assert token("--check", made.stdout, secret=SECRET, token_audience="rooms").returncode == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (signed({"sub": "42"}, "f" * 64), "signed with a key that is none of ours"),
        (signed({"sub": "42", "exp": now_s() - 100}), "it has expired"),
        (signed({"sub": "42", "nbf": now_s() + 100_000}), "not valid yet (nbf)"),
        (signed({"sub": "42", "aud": "other"}), "audience"),
        (signed({"sub": "{42}"}), "sub: user holds a brace"),
        (signed({"sub": "42", "channel": ""}), "channel"),
        (signed({"sub": "42", "meta": "x" * 20_000}), "at most 16384 are allowed"),
        ("a.b.c", "not a JWT"),
        ("", "not a JWT"),
        ("\u00df", "not a JWT"),
    ],
)
def test_it_says_why_a_token_is_not_accepted(text: str, reason: str) -> None:
    result = token("--check", text, secret=SECRET)

    assert result.returncode == 1
    assert result.stderr.startswith("roomcast: not accepted: ")
    assert result.stderr.count("\n") == 1
    assert reason.lower() in result.stderr.lower()


def test_a_terminal_is_told_nothing_that_it_would_obey() -> None:
    result = token("--check", signed({"sub": "\x1b[2J\x9b2J\u202e"}), secret=SECRET)

    assert result.returncode == 1
    assert (result.stdout + result.stderr).replace("\n", "").isprintable()


def test_a_token_of_a_public_key_is_checked(tmp_path: Path) -> None:
    key, file = private_key("EdDSA"), tmp_path / "key.pem"
    file.write_bytes(public_pem(key))

    assert token("--check", signed({}, key, "EdDSA"), public_key_file=str(file)).returncode == 0
    assert token("--check", signed({}), public_key_file=str(file)).returncode == 1


def test_a_key_set_that_cannot_be_fetched_is_said() -> None:
    result = token("--check", signed({}, private_key("EdDSA"), "EdDSA"), jwks_url="http://127.0.0.1:1/keys")

    assert result.returncode == 1
    assert "could not be fetched" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--user"),
        (["--user=42", "--ttl=0"], "--ttl"),
        (["--user=42", "--ttl=1y"], "--ttl"),
        (["--user=42", "--ttl=999999999d"], "--ttl"),
        (["--user=42", "--info=hi"], "--info is not JSON"),
        (["--user=42", "--permit=room:*"], "--permit room:*"),
        (["--user=42", "--permit=room:*=fly"], "permissions"),
        (["--user=42", "--permit=room:*=publish", "--channel=room:a"], "--permit is for connection tokens"),
        (["--user=a{b}"], "sub: user holds a brace"),
        (["--user=42", "--channel="], "channel"),
        (["--user=42", "--check=-"], "--check"),
        (["--permit=a=publish", "--check=-"], "--check"),
        (["--user=42", "--info=" + json.dumps("x" * 2000)], "info"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], part: str) -> None:
    assert_one_line(token(*arguments, secret=SECRET), 2, part)


def test_without_a_secret_no_token_is_made_and_none_is_accepted() -> None:
    assert_one_line(token("--user=42"), 1, "ROOMCAST_SECRET is not set")
    for settings, code, part in [({}, 2, "ROOMCAST_SECRET is not set"), ({"insecure": "1"}, 1, "ROOMCAST_INSECURE")]:
        result = token("--check", signed({}), **settings)
        assert (result.returncode, part in result.stderr) == (code, True)
