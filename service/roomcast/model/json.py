"""JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Any JSON value. `Any`, because Python's type system cannot describe JSON without a cast at every access.
Json = Any
JsonObject = Mapping[str, Json]
