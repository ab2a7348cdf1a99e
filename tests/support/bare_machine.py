"""Requirements of tests that a bare machine does not have."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test on a bare machine; fail it in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and this is CI")
    pytest.skip(reason)
