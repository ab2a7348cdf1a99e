"""The npm package `centrifuge`, in Node.js and in a browser."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from selenium import webdriver

from tests.sdk import Event, Kinds, SdkError
from tests.support.balancer import Balancer
from tests.support.processes import DEADLINE_S


class NodeDriver:
    """A Node.js process that runs node.mjs until the block ends."""

    kinds: Kinds = (
        ("websocket", "json"),
        ("websocket", "protobuf"),
        ("http_stream", "json"),
        ("http_stream", "protobuf"),
        ("sse", "json"),
    )

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "node.mjs"], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._events: list[Event] = []
        self._answers: dict[int, Future[Any]] = {}
        self._ids = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        self._process.stdout.close()
        assert self._process.returncode == 0

    async def perform(self, call: str, client: str, **arguments: Any) -> Any:
        """See `Driver.perform`."""
        request_id = next(self._ids)
        answer: Future[Any] = Future()
        self._answers[request_id] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": request_id, "call": call, "client": client, **arguments}) + "\n")
        self._process.stdin.flush()
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.wrap_future(answer)

    async def events(self) -> list[Event]:
        """See `Driver.events`."""
        return self._events

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                self._events.append(told)
            elif "error" in told:
                self._answers.pop(told["id"]).set_exception(SdkError(**told["error"]))
            else:
                self._answers.pop(told["id"]).set_result(told["result"])


class BrowserDriver:
    """A page with the SDK's builds for browsers; to the nodes behind the balancer it is another site's (localhost)."""

    kinds: Kinds = NodeDriver.kinds

    def __init__(self, browser: webdriver.Chrome, balancer: Balancer, directory: Path) -> None:
        builds = directory / "node_modules" / "centrifuge" / "dist"
        files = {
            "/test/": ("text/html", directory / "page.html"),
            **{
                f"/test/{name}.mjs": ("text/javascript", directory / f"{name}.mjs")
                for name in ("driver", "behaviours", "maps")
            },
            "/test/centrifuge.js": ("text/javascript", builds / "centrifuge.js"),
            "/test/centrifuge.protobuf.js": ("text/javascript", builds / "centrifuge.protobuf.js"),
        }
        balancer.pages.update({path: (content_type, file.read_bytes()) for path, (content_type, file) in files.items()})
        browser.get(balancer.url("/test/", host="localhost"))
        browser.set_script_timeout(DEADLINE_S)
        self._browser = browser
        self._events: list[Event] = []
        self._turn = threading.Lock()  # Selenium does one thing at a time

    async def perform(self, call: str, client: str, **arguments: Any) -> Any:
        """See `Driver.perform`."""
        request = {"call": call, "client": client, **arguments}
        script = "const done = arguments[1]; perform(arguments[0]).then(done)"
        answer = await asyncio.to_thread(self._run, self._browser.execute_async_script, script, request)
        if "error" in answer:
            raise SdkError(**answer["error"])
        return answer["result"]

    async def events(self) -> list[Event]:
        """See `Driver.events`."""
        self._events += await asyncio.to_thread(self._run, self._browser.execute_script, "return events.splice(0)")
        return self._events

    def _run(self, execute: Any, *arguments: Any) -> Any:  # Any: of the page
        with self._turn:
            return execute(*arguments)
