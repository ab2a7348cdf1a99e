"""The `roomcast` command, as it starts: reading all of it takes most of a second, and Ctrl-C meanwhile is quiet."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; see `roomcast.cli.main.run`."""
    try:
        from roomcast.cli.main import run  # noqa: PLC0415  (so that a Ctrl-C meanwhile is caught)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
