"""The entry point: importing the command takes most of a second, and Ctrl-C during it must be quiet."""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys


def main() -> None:
    """Run the command; see `roomcast.cli.main.run`."""
    _use_utf8()
    try:
        from roomcast.cli.main import run  # noqa: PLC0415  (so that Ctrl-C is caught)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def _use_utf8() -> None:
    """Read and write UTF-8, whatever the locale: channels, messages, settings and files have no other encoding.

    Only Python's UTF-8 mode decodes arguments and environment so, and it is chosen at the start.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  (no shell is meant)
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # PYTHONIOENCODING may have chosen another one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


if __name__ == "__main__":
    main()
