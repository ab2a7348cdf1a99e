"""The service in a hurry, for tests: ten seconds are half a one, and nobody waits for a thread."""

from __future__ import annotations

from roomcast import app
from roomcast.__main__ import main
from roomcast.centrifuge import context
from roomcast.hooks import python
from roomcast.rooms import websockets

if __name__ == "__main__":
    app._EXPIRY_GRACE_S = 0.2
    context.CONNECT_TIMEOUT_S = 0.5
    websockets._FIRST_MESSAGE_TIMEOUT_S = 0.5
    python._MAX_WAITING = 0
    main()
