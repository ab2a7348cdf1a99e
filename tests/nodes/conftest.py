"""Fixtures of tests on real nodes."""

from __future__ import annotations

import secrets

import pytest


@pytest.fixture
def room() -> str:
    """Return a room that no other test uses."""
    return secrets.token_hex(4)
