"""A node with short timeouts: ten seconds become half a second, and presence is checked every 2 s instead of 20."""

from __future__ import annotations

from roomcast import app
from roomcast.__main__ import main
from roomcast.centrifuge import command_queue
from roomcast.hooks import python_handlers
from roomcast.presence import changes
from roomcast.rooms import websockets
from roomcast.transports import event_stream

if __name__ == "__main__":
    app._EXPIRY_GRACE_S = 0.2
    command_queue.CONNECT_TIMEOUT_S = 0.5
    websockets._FIRST_MESSAGE_TIMEOUT_S = 0.5
    event_stream._RETRY_MS = (100, 200)
    python_handlers._MAX_WAITING = 0  # calls do not wait for a thread
    changes.TURN_COUNT = 2
    main()
