"""A subscription that a session holds."""

from __future__ import annotations


class Held:
    """Until when, and for whom.

    expire_at_s: Unix time at which it ends unless it is refreshed, 0: never. is_of_server: the client did not ask.
    is_kept_by_application: the application is asked then; the client has no token to refresh it with.
    """

    __slots__ = ("expire_at_s", "is_kept_by_application", "is_of_server")

    def __init__(
        self, *, expire_at_s: float = 0, is_of_server: bool = False, is_kept_by_application: bool = False
    ) -> None:
        self.expire_at_s = expire_at_s
        self.is_of_server = is_of_server
        self.is_kept_by_application = is_kept_by_application
