"""The options of a namespace for one subscription."""

from __future__ import annotations

from dataclasses import replace

from roomcast.auth import Override
from roomcast.model.namespaces import Namespace, Recovery


def overridden(namespace: Namespace, override: Override | None) -> Namespace:
    """Return the options of a channel for one subscription."""
    if override is None:
        return namespace
    presence = namespace.presence if override.presence is None else override.presence
    recovery = namespace.recovery
    if namespace.map is not None:
        recovery = None  # not to be set: the mode of the map decides
    elif override.recover is not None or override.position is not None:
        tells_position = bool(override.recover or override.position) and namespace.history_size > 0
        recovery = (namespace.recovery or Recovery.STREAM) if tells_position else None
    join_leave = namespace.join_leave if override.join_leave is None else override.join_leave
    return replace(namespace, presence=presence, join_leave=presence and join_leave, recovery=recovery)


def is_told_members(namespace: Namespace, override: Override | None, *, asks: bool = False) -> bool:
    """Return whether a subscriber is notified of joins and leaves. asks: it has requested them."""
    pushes = None if override is None else override.push_join_leave
    return namespace.join_leave and (asks or (namespace.force_push_join_leave if pushes is None else pushes))
