"""A node with half a second to connect, whose wall clock the test sets: CLOCK_FILE holds the seconds it is wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

from roomcast.__main__ import main
from roomcast.centrifuge import command_queue

if __name__ == "__main__":
    command_queue.CONNECT_TIMEOUT_S = 0.5
    right, path = time.time, Path(os.environ["CLOCK_FILE"])
    time.time = lambda: right() + float(path.read_text())
    main()
