"""Questions to one node of the cluster or to all; each node answers by its own handlers.

Questions and answers are JSON in channels that only nodes use; their names have no namespace, and no client can
subscribe. All nodes receive `control`, one node receives `control.<node id>`.

    {"question": 7, "from": "n1", "op": "disconnect", "params": {...}}     {"answer": 7, "from": "n2", "result": {...}}
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog

from roomcast.brokers.interface import Broker, Published
from roomcast.model import json
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import JsonObject
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import MAX_CONTROL_BYTES, Kind, Publication
from roomcast.tasks import TaskSet

log = structlog.get_logger(__name__)

# Executes a question, and returns the answer.
Handler = Callable[[JsonObject], Awaitable[JsonObject]]

_ALL = "control"
_WITHOUT_HISTORY = Namespace()
_MAX_RUNNING = 1000
_RETRY_S = 1.0
# Far longer than a caller waits: it only ends handlers that hang.
_HANDLER_TIMEOUT_S = 30.0


class UnknownNode(ClientError):  # noqa: N818  (as BrokerUnavailable)
    """No node with this id is connected."""

    def __init__(self, node_id: str) -> None:
        super().__init__(ErrorCode.NOT_AVAILABLE, f"no node {node_id}")


class Answers(dict[str, JsonObject]):
    """The answers by node id; that of a failed handler is `{"error": {"code":, "message":}}`.

    missing_count: how many nodes received the question and did not answer in time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing_count = 0


class _Asked:
    """A question that waits for its answers; they may arrive before their number is known."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.expected_count: int | None = None
        self.is_answered = asyncio.Event()

    def expect(self, count: int) -> None:
        self.expected_count = count
        self._check()

    def add(self, node_id: str, result: JsonObject) -> None:
        self.answers[node_id] = result
        self._check()

    def _check(self) -> None:
        if self.expected_count is not None and len(self.answers) >= self.expected_count:
            self.is_answered.set()


class Survey:
    """Asks other nodes, and answers their questions."""

    def __init__(self, broker: Broker, node_id: str) -> None:
        self._broker = broker
        self._node_id = node_id
        self._handlers: dict[str, list[Handler]] = defaultdict(list)
        self.channels = (_ALL, f"{_ALL}.{node_id}")
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._running = TaskSet("survey")
        self._is_listening = asyncio.Event()

    def register(self, handlers: Mapping[str, Handler]) -> None:
        """Answer by these handlers too. If an op has several, all are called in order, and their answers are merged.

        Args:
            handlers: by op. They may raise ClientError and BrokerUnavailable, which are returned to the asking node.
        """
        for op, handler in handlers.items():
            self._handlers[op].append(handler)

    async def run(self) -> None:
        """Receive questions until cancelled; then end the running handlers."""
        try:
            while not self._is_listening.is_set():
                try:
                    # Both at once: until the broker connects each waits for that.
                    await asyncio.gather(*map(self._broker.subscribe, self.channels))
                    self._is_listening.set()
                except BrokerUnavailable as exc:
                    log.debug("survey.not_subscribed", reason=exc.reason)  # the broker's own log line says it once
                    await asyncio.sleep(_RETRY_S)
            await asyncio.get_running_loop().create_future()
        finally:
            await self._running.end()

    async def ask(self, op: str, params: JsonObject, *, node_id: str | None = None, within_s: float = 3.0) -> Answers:
        """Ask every node, this one too, or one node; return the answers once all have arrived, or in time.

        Args:
            params: JSON; the question has at most 1 MiB.
        Delivery: at most once to each node. A node without a connection to Redis is neither asked nor missing.
        Raises: UnknownNode; ClientError 106 for a question that is too large, 107 for one that is not JSON;
            BrokerUnavailable if it was not asked.
        """
        number = next(self._numbers)
        try:
            question = json.dumps({"question": number, "from": self._node_id, "op": op, "params": params})
        except json.InvalidJson as exc:
            raise ClientError(ErrorCode.BAD_REQUEST, str(exc)) from None
        if len(question) > MAX_CONTROL_BYTES:
            raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"more than {MAX_CONTROL_BYTES} bytes for the other nodes")
        asked = self._asked[number] = _Asked()
        try:
            async with asyncio.timeout(within_s):
                await self._is_listening.wait()
                asked.expect(await self._send(question, node_id))
                await asked.is_answered.wait()
        except TimeoutError:
            if asked.expected_count is None:
                raise BrokerUnavailable(f"Redis did not take a question within {within_s:g} s") from None
            asked.answers.missing_count = asked.expected_count - len(asked.answers)
            log.warning("survey.unanswered", op=op, missing=asked.answers.missing_count)
        finally:
            del self._asked[number]
        return asked.answers

    def on_publication(self, publication: Publication) -> None:
        """Handle a message of one of `channels`: a question, or an answer."""
        try:
            message = json.loads(publication.data, keep=("data", "info"))
        except json.InvalidJson:
            message = None
        match message:
            case {"question": int(number), "from": str(asker), "op": str(op), "params": dict(params)}:
                self._start_handling(asker, number, op, params)
            case {"answer": int(number), "from": str(node_id), "result": dict(result)}:
                asked = self._asked.get(number)
                if asked is not None:  # else it is too late
                    asked.add(node_id, result)
            case _:
                log.warning("survey.malformed", channel=publication.channel)

    async def _send(self, question: bytes, node_id: str | None) -> int:
        """Publish a question; return how many nodes will answer it. Raises: UnknownNode, BrokerUnavailable."""
        channel = _ALL if node_id is None else f"{_ALL}.{node_id}"
        published = await self._broker.publish(Publication(channel, question, Kind.JSON), _WITHOUT_HISTORY)
        if published.receiver_count > 0:
            # Redis may count a node twice right after it reconnected.
            return published.receiver_count if node_id is None else 1
        if node_id is None:
            raise BrokerUnavailable("no node hears the others")
        raise UnknownNode(node_id)

    def _start_handling(self, asker: str, number: int, op: str, params: JsonObject) -> None:
        if len(self._running) >= _MAX_RUNNING:
            self._answer(asker, number, _failed(ErrorCode.TOO_MANY_REQUESTS, f"{_MAX_RUNNING} questions at once"))
            return
        self._running.spawn(self._answer_question(asker, number, op, params))

    async def _answer_question(self, asker: str, number: int, op: str, params: JsonObject) -> None:
        result: dict[str, Any] = {}
        try:
            if op not in self._handlers:
                raise ClientError(ErrorCode.METHOD_NOT_FOUND, f"this node knows no {op}")
            async with asyncio.timeout(_HANDLER_TIMEOUT_S):
                for handler in self._handlers[op]:
                    result |= await handler(params)
            self._answer(asker, number, result)
        except ClientError as exc:
            self._answer(asker, number, _failed(exc.error, exc.detail))
        except BrokerUnavailable as exc:
            self._answer(asker, number, _failed(ErrorCode.INTERNAL, exc.reason))
        except Exception:
            # As in a request's handler: the asking node gets the code, and this node continues.
            log.exception("survey.handler_failed", op=op)
            self._answer(asker, number, _failed(ErrorCode.INTERNAL, "see the node's log"))

    def _answer(self, asker: str, number: int, result: JsonObject) -> None:
        answer = orjson.dumps({"answer": number, "from": self._node_id, "result": result})
        if len(answer) > MAX_CONTROL_BYTES:
            raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"an answer of {len(answer)} bytes")
        publication = Publication(f"{_ALL}.{asker}", answer, Kind.JSON)
        self._broker.submit(publication, _WITHOUT_HISTORY, _answered)


def _failed(error: ErrorCode, detail: str) -> JsonObject:
    return {"error": {"code": error.code, "message": f"{error.message}: {detail}"}}


def _answered(result: Published | BrokerUnavailable) -> None:
    if isinstance(result, BrokerUnavailable):
        log.warning("survey.answer_lost", reason=result.reason)
