"""Commands that wait in order while their slot moves between two shards of a cluster. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.cluster_pipeline import slot_of
from roomcast.redis_access.scripts import Command

_RETRY_S = 0.1
# A slot that moves for longer is stuck: an operator has to end that.
_PATIENCE_S = 30.0


# Receives the server's reply to a command, or the reason why it is unknown (its cause: what the server has refused).
# Any: redis-py's replies.
OnDone = Callable[[Any | BrokerUnavailable], None]


class Waiting(NamedTuple):
    """A command that is not executed yet."""

    command: Command
    size_bytes: int
    on_done: OnDone


class _Slot(NamedTuple):
    since_s: float
    commands: deque[Waiting]


class MovingSlots:
    """While a slot moves, a command that uses a key which is not there yet cannot be executed (TRYAGAIN).

    It is retried until the slot has moved. Later commands of the slot wait behind it, those of other slots do not.
    Args:
        max_bytes: the most that may wait.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._slots: dict[int, _Slot] = {}
        self._due_at_s = 0.0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        """Return whether anything waits."""
        return bool(self._slots)

    def follows(self, waiting: Waiting) -> bool:
        """Return whether a command has to wait behind others of its slot."""
        return bool(self._slots) and slot_of(waiting.command) in self._slots

    def put(self, waiting: Waiting, now_s: float) -> bool:
        """Let a command wait behind the others of its slot; return False if there is no room for it."""
        if self.size_bytes + waiting.size_bytes > self._max_bytes:
            return False
        if not self._slots:
            self._due_at_s = now_s + _RETRY_S
        self._slots.setdefault(slot_of(waiting.command), _Slot(now_s, deque())).commands.append(waiting)
        self.size_bytes += waiting.size_bytes
        return True

    def retry_in_s(self, now_s: float) -> float:
        """Return the time until the next retry."""
        return max(0.0, self._due_at_s - now_s)

    def due(self, now_s: float) -> list[Waiting]:
        """Return the first command of each slot, if they are to be retried now."""
        if not self._slots or now_s < self._due_at_s:
            return []
        self._due_at_s = now_s + _RETRY_S
        return [slot.commands[0] for slot in self._slots.values()]

    def is_first(self, waiting: Waiting) -> bool:
        """Return whether a command is the first one of a slot that waits."""
        slot = self._slots.get(slot_of(waiting.command)) if self._slots else None
        return slot is not None and slot.commands[0] is waiting

    def is_stuck(self, waiting: Waiting, now_s: float) -> bool:
        """Return whether a slot has been moving for too long."""
        return now_s - self._slots[slot_of(waiting.command)].since_s > _PATIENCE_S

    def end(self, first: Waiting) -> list[Waiting]:
        """Return the commands behind the first one of a slot, which wait no longer, nor does that one."""
        commands = self._slots.pop(slot_of(first.command)).commands
        self.size_bytes -= sum(each.size_bytes for each in commands)
        commands.popleft()
        return list(commands)

    def clear(self) -> list[Waiting]:
        """Return all commands, which wait no longer."""
        commands = [each for slot in self._slots.values() for each in slot.commands]
        self._slots.clear()
        self.size_bytes = 0
        return commands
