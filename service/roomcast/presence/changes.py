"""What a node has to write about its members: changes, and channels whose members Redis may have lost."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import NamedTuple

from roomcast.model.client_info import ClientInfo
from roomcast.presence.interface import Roster

# A client that only reloads its page vacates no channel.
_LINGER_S = 1.0
# The keys of each channel are checked and kept alive once in 20 turns, of a second each.
TURN_COUNT = 20
# A client that joins and leaves within a round is reported while its channel has no more changes in this round.
_MAX_CHANGES_IN_STEPS = 100

Step = dict[str, ClientInfo | None]


class Round(NamedTuple):
    """The changes that are written together.

    changed: by channel the steps, one after the other, in each of which a client has changed once; None: it has left.
    rewritten: members that were written before; nothing is published about them.
    checked: channels with a subscriber here, with the number of their members.
    news: those of them that have become occupied.
    vacated: channels without a subscriber here.
    """

    changed: dict[str, list[Step]]
    rewritten: dict[str, list[ClientInfo]]
    checked: dict[str, int]
    news: set[str]
    vacated: list[str]


class Changes:
    """The changes that Redis does not have yet. The roster has the clients, in case they must be written again.

    Members are only written again after a report that the node's lease is alive (`allow_rewriting`): another node that
    has ended it has published their leaves, so that their joins must be published too.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._changed: defaultdict[str, list[Step]] = defaultdict(list)
        # Channels of which all members are written again; true: those that Redis does not have are published as joined.
        self._unsure: dict[str, bool] = {}
        self._may_rewrite = False
        self._due: set[str] = set()  # channels that are checked
        self._vacating: dict[str, float] = {}  # channel -> the time at which it is vacated
        self._refused: set[str] = set()  # channels that wait for the next turn
        self._turn = 0

    def join(self, channel: str, info: ClientInfo) -> None:
        """See `Presence.join`."""
        self._change(channel, info.client, info)

    def leave(self, channel: str, client: str) -> None:
        """See `Presence.leave`."""
        # Also a client that was not written yet: Redis decides whether it was a member.
        self._change(channel, client, None)

    def occupy(self, channel: str) -> None:
        """See `Presence.occupy`."""
        if self._vacating.pop(channel, None) is None:
            self._unsure[channel] = True

    def vacate(self, channel: str, now_s: float) -> None:
        """See `Presence.vacate`."""
        self._vacating[channel] = now_s + _LINGER_S

    def suspect(self, channel: str) -> None:
        """Redis may have lost members of a channel."""
        self._unsure.setdefault(channel, False)
        self._may_rewrite = False

    def suspect_all(self) -> None:
        """Redis may have lost members of any channel."""
        for channel in self._roster.channels():
            self.suspect(channel)

    def rejoin_all(self) -> None:
        """All members have left, as other nodes have published: they join again."""
        self._unsure.update(dict.fromkeys(self._roster.channels(), True))

    def allow_rewriting(self) -> None:
        """The lease was alive after the last suspicion."""
        self._may_rewrite = True

    def turn(self) -> None:
        """Retry refused channels, and select those to be checked."""
        self._refused.clear()
        self._turn = (self._turn + 1) % TURN_COUNT
        self._due.update(channel for channel in self._roster.channels() if hash(channel) % TURN_COUNT == self._turn)

    def is_pending(self, channel: str) -> bool:
        """Return whether changes of a channel are written in the next round."""
        return channel in self._changed and channel not in self._refused

    def take(self, now_s: float) -> Round:
        """Return the changes to be written now."""
        here, refused = self._roster.channels(), self._refused
        changed, self._changed = self._changed, defaultdict(list)
        for channel in refused.intersection(changed):
            self._changed[channel] = changed.pop(channel)
        unsure, self._unsure = self._unsure, {}
        rewritten: dict[str, list[ClientInfo]] = {}
        news: set[str] = set()
        for channel, is_news in unsure.items():
            if channel not in here:
                continue
            if channel in refused or not (is_news or self._may_rewrite):
                self._unsure[channel] = is_news
            elif is_news:
                news.add(channel)
                step = _first(changed[channel])
                for info in self._roster.members(channel):
                    step.setdefault(info.client, info)
            else:
                known = set().union(*changed.get(channel, ()))
                rewritten[channel] = [info for info in self._roster.members(channel) if info.client not in known]
        due, self._due = self._due, set()
        due = {channel for channel in due if channel in here and channel not in refused}
        checked = {channel: self._roster.member_count(channel) for channel in due.union(news, rewritten)}
        vacated = [c for c, due_at_s in self._vacating.items() if due_at_s <= now_s and c not in refused]
        for channel in vacated:
            del self._vacating[channel]
        return Round(dict(changed), rewritten, checked, news, vacated)

    def restore(self, changes: Round, refused: set[str], now_s: float) -> None:
        """Keep the changes of refused channels until the next turn.

        Leaves are not kept by name, which would need memory for every client that leaves as long as Redis refuses: the
        members that Redis has too many are found when all are written again.
        """
        here = self._roster.channels()
        self._refused |= refused
        for channel in refused:
            newest = dict(chain.from_iterable(step.items() for step in changes.changed.get(channel, ())))
            for client, info in newest.items():
                if info is not None:
                    _first(self._changed[channel]).setdefault(client, info)
            if channel in here:
                self.suspect(channel)
                self._unsure[channel] |= channel in changes.news or channel in changes.vacated
            elif channel in changes.vacated:
                self.vacate(channel, now_s)

    def _change(self, channel: str, client: str, info: ClientInfo | None) -> None:
        steps = self._changed[channel]
        step = steps[-1] if steps else _first(steps)
        turns = len(step) < _MAX_CHANGES_IN_STEPS and client in step and (step[client] is None) is not (info is None)
        if turns and sum(map(len, steps)) < _MAX_CHANGES_IN_STEPS:
            steps.append(step := {})
        step[client] = info


def _first(steps: list[Step]) -> Step:
    if not steps:
        steps.append({})
    return steps[0]
