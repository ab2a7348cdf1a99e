"""A subscription that a session holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """Until when, and for whom.

    expire_at_s: Unix time at which it ends unless it is refreshed, 0: never. is_of_server: the client did not ask.
    is_kept_by_application: the application is asked then; the client has no token to refresh it with.
    is_positioned: the client was told where it is, and is told when that is not true any more.
    """

    expire_at_s: float = 0
    is_of_server: bool = False
    is_kept_by_application: bool = False
    is_positioned: bool = False
