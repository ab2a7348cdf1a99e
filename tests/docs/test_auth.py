"""The examples of docs/auth.md, executed unchanged: the tokens that they make are accepted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roomcast.auth.claims import MAX_GRANTS, connection_claims
from roomcast.auth.keys import secret_key
from roomcast.auth.permissions import Action
from roomcast.auth.tokens import TokenVerifier
from tests.support.paths import ROOT
from tests.support.tokens import SECRET

PAGE = (ROOT / "docs" / "auth.md").read_text()


def example(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(block)


def made_by(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "ROOMCAST_SECRET": SECRET}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def assert_is_good(token: str) -> None:
    claims = asyncio.run(TokenVerifier([secret_key(SECRET)]).connection(token))

    assert claims.user == "42"
    assert claims.expire_at_s is not None
    assert 3500 < claims.expire_at_s - time.time() < 3700


def test_python(tmp_path: Path) -> None:
    assert_is_good(made_by(sys.executable, "-c", example("python") + "print(token)", cwd=tmp_path))


@pytest.mark.node
def test_javascript(npm: str, tmp_path: Path) -> None:
    made_by(npm, "install", "--silent", "--no-audit", "--no-fund", "jose", cwd=tmp_path)
    script = tmp_path / "token.mjs"
    script.write_text(example("javascript") + "console.log(token);")

    assert_is_good(made_by("node", str(script), cwd=tmp_path))


def test_permissions() -> None:
    claims = connection_claims(json.loads(example("json")))

    assert [grant.pattern for grant in claims.grants] == ["room:*", "draw:team-42-*"]
    assert claims.grants[0].actions == frozenset({Action.SUBSCRIBE, Action.PUBLISH})
    assert f"At most {MAX_GRANTS} patterns" in PAGE
