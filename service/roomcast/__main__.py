"""The entry point: importing the command takes most of a second, and Ctrl-C during it must be quiet."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; see `roomcast.cli.main.run`."""
    try:
        from roomcast.cli.main import run  # noqa: PLC0415  (so that Ctrl-C is caught)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
