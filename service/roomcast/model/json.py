"""The types of JSON in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = Mapping[str, Any]  # Any: JSON
