"""One process of `roomcast dev`: it is restarted whenever it ends."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from roomcast.cli.terminal import Failure

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05
# A process that ends sooner after it was ready has ended at once.
_SETTLED_S = 5.0
# The pauses before the restarts of a process that ends at once again and again; after the last one, no more restarts.
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(slots=True)
class DevProcess:
    """A process, from `start` to `stop`.

    title: its name in messages.
    is_ready: whether the process with this pid serves; None: it is ready at once.
    say: prints a line for the user.
    on_start: called with the pid of each start.
    after_restart: added to the message about a restart.
    output: where stdout and stderr go; None: to the terminal.
    """

    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    say: Callable[[str], None]
    on_start: Callable[[int], None]
    is_ready: Callable[[int], Awaitable[bool]] | None = None
    after_restart: str = ""
    output: int | None = None
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _ready_at_s: float | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """The pid; another one after a restart."""
        return self._running().pid

    async def start(self) -> None:
        """Start the process, and do not wait until it is ready."""
        self._ready_at_s = None
        # A session of its own: Ctrl-C reaches `roomcast dev` alone, which then ends the others in order.
        self._process = await asyncio.create_subprocess_exec(
            *self.command, env=self.environment, stdout=self.output, stderr=self.output, start_new_session=True
        )
        self.on_start(self._process.pid)

    async def until_ready(self) -> None:
        """Wait until the process serves. Raises: Failure if it ends before or needs too long."""
        if not await self._becomes_ready():
            process = self._running()
            if process.returncode is None:
                what = f"{self.title} is not ready after {_START_TIMEOUT_S:.0f} s"
                raise Failure(f"{what}; `roomcast check` says whether Redis answers")
            raise Failure(f"{self.title} {_ending(process.returncode)}", exit_code=_exit_code(process.returncode))

    async def keep_alive(self) -> None:
        """Restart the process whenever it ends. Raises: Failure if it ends at once again and again."""
        pauses_s = iter(_PAUSES_S)
        while True:
            code = await self._running().wait()
            was_ready = self._ready_at_s is not None
            if self._ready_at_s is not None and time.monotonic() - self._ready_at_s >= _SETTLED_S:
                pauses_s = iter(_PAUSES_S)
            pause_s = next(pauses_s, None)
            if pause_s is None:
                text = f"{self.title} {_ending(code)}, at once after each of {len(_PAUSES_S)} restarts; giving up"
                raise Failure(text, exit_code=_exit_code(code))
            if not was_ready:
                self.say(f"{self.title} {_ending(code)} before it was ready; next start in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            await self.start()
            if await self._becomes_ready():
                self.say(f"{self.title} {_ending(code)}; restarted{self.after_restart} (pid {self.pid})")
            elif self._running().returncode is None:
                self._ready_at_s = time.monotonic()  # counts as ready: it runs, and may be waiting for Redis
                self.say(f"{self.title} {_ending(code)}; restarted (pid {self.pid}), but it is not ready")

    async def stop(self) -> None:
        """End the process with SIGTERM, or with SIGKILL if it does not end in time."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _becomes_ready(self) -> bool:
        process, deadline_s = self._running(), time.monotonic() + _START_TIMEOUT_S
        while self.is_ready is not None and not await self.is_ready(process.pid):
            if process.returncode is not None or time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(_POLL_S)
        self._ready_at_s = time.monotonic()
        return True

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "not started"  # noqa: S101  (a mistake of the caller)
        return self._process


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended (exit code {code})"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed ({name})"


def _exit_code(code: int) -> int:
    """Return the exit code as shells do; 1 instead of 0, because the process should not have ended."""
    return 128 - code if code < 0 else code or 1
