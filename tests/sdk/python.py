"""The package `centrifuge-python` of PyPI, in the test's own loop."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import centrifuge
from centrifuge.exceptions import ReplyError

from tests.sdk import Event, Kinds, SdkError
from tests.support.processes import DEADLINE_S


class _Payloads:
    """In the Protobuf encoding payloads are bytes; the tests' are JSON in them.

    Args:
        encoding: json, protobuf, or "bytes": Protobuf with the tests' own bytes as payloads.
    """

    def __init__(self, encoding: str) -> None:
        self.is_protobuf = encoding != "json"
        self._is_json_in_bytes = encoding == "protobuf"

    def encode(self, value: Any) -> Any:
        """Return the payload for the SDK."""
        return json.dumps(value).encode() if self._is_json_in_bytes else value

    def plain(self, value: Any, name: str = "") -> Any:
        """Return a value of the SDK in the format of driver.mjs."""
        if name in {"data", "connInfo", "chanInfo"} and self._is_json_in_bytes and isinstance(value, bytes):
            return json.loads(value) if value else None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {_camel(each.name): getattr(value, each.name) for each in dataclasses.fields(value)}
            value |= {} if "pub" not in value else self.plain(value.pop("pub"))
        if isinstance(value, Mapping):
            return {key: self.plain(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self.plain(each) for each in value]
        return value


class _Handler:
    """Takes every event of a client or of a subscription."""

    def __init__(self, events: list[Event], payloads: _Payloads, **origin: str) -> None:
        self._events = events
        self._payloads = payloads
        self._origin = origin

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[None]]:
        async def take(context: Any) -> None:
            self._events.append(
                {**self._payloads.plain(context), **self._origin, "event": name.removeprefix("on_")},
            )

        return take


class PythonDriver:
    """Clients of one test. The block ends once those that were disconnected have said good-bye."""

    kinds: Kinds = (("websocket", "json"), ("websocket", "protobuf"))

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._clients: dict[str, tuple[centrifuge.Client, _Payloads]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # The SDK closes connections in the background, without a notification.
        closing = [task for task in asyncio.all_tasks() if "Client._close_conn" in repr(task.get_coro())]
        if closing:
            await asyncio.wait(closing, timeout=DEADLINE_S)

    async def events(self) -> list[Event]:
        """See `Driver.events`."""
        return self._events

    async def perform(self, call: str, client: str, **arguments: Any) -> Any:
        """See `Driver.perform`."""
        if call == "open":
            self._open(client, **arguments)
            return {}
        sdk, payloads = self._clients[client]
        try:
            match call:
                case "subscribe":
                    await self._subscribe(client, **arguments)
                    return {}
                case "unsubscribe":
                    subscription = sdk.get_subscription(arguments["channel"])
                    await subscription.unsubscribe()
                    sdk.remove_subscription(subscription)
                    return {}
                case "deltaStats":
                    differences = [each for each in self._events if each["client"] == client and each.get("delta")]
                    return {"numDeltaPayloads": len(differences)}
                case "history":
                    options = arguments.pop("options")
                    since = options.pop("since", None)
                    position = None if since is None else centrifuge.StreamPosition(**since)
                    return payloads.plain(await sdk.history(**arguments, **options, since=position))
            if "data" in arguments:
                arguments["data"] = payloads.encode(arguments["data"])
            return payloads.plain(await getattr(sdk, _snake(call))(**arguments))
        except ReplyError as exc:
            raise SdkError(exc.code, exc.message) from None

    def _open(
        self,
        client: str,
        *,
        encoding: str,
        endpoints: list[dict[str, str]],
        options: dict[str, Any],
        tokens: list[str] | None = None,
        data: Any = None,
    ) -> None:
        payloads = _Payloads(encoding)
        sdk = centrifuge.Client(
            endpoints[0]["endpoint"],
            events=_Handler(self._events, payloads, client=client),
            use_protobuf=payloads.is_protobuf,
            min_reconnect_delay=options["minReconnectDelay"] / 1000,  # from ms, as in JavaScript
            max_reconnect_delay=options["maxReconnectDelay"] / 1000,
            data=None if data is None else payloads.encode(data),
            proxy=None,
            **self._tokens(tokens, client=client),
        )
        self._clients[client] = (sdk, payloads)

    async def _subscribe(
        self,
        client: str,
        *,
        channel: str,
        options: dict[str, Any],
        tokens: list[str] | None = None,
        states: list[dict[str, Any]] | None = None,
    ) -> None:
        sdk, payloads = self._clients[client]
        given = {_snake(name): value / 1000 if name.endswith("Delay") else value for name, value in options.items()}
        if "delta" in given:
            given["delta"] = centrifuge.DeltaType(given["delta"])
        if "tags_filter" in given:
            given["tags_filter"] = centrifuge.FilterNode(given["tags_filter"])
        if states is not None:

            async def get_state(_: str) -> centrifuge.StreamPosition:
                return centrifuge.StreamPosition(**states.pop(0))

            given["get_state"] = get_state
        handler = _Handler(self._events, payloads, client=client, channel=channel)
        given |= self._tokens(tokens, client=client, channel=channel)
        await sdk.new_subscription(channel, handler, **given).subscribe()

    def _tokens(self, tokens: list[str] | None, **origin: str) -> dict[str, Any]:
        if tokens is None:
            return {}
        later = tokens[1:]

        async def get_token(*_: str) -> str:
            self._events.append({**origin, "event": "getToken"})
            return later.pop(0) if len(later) > 1 else later[0]

        return {"token": tokens[0], "get_token": get_token}


def _camel(name: str) -> str:
    return re.sub("_(.)", lambda match: match[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name)
