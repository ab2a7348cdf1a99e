from __future__ import annotations

import sys

import pytest

from roomcast.cli.terminal import Lines

# ESC and CSI begin sequences that a terminal executes.
EVIL = '{"a":"größe \x1b[2J\x9b2J\x7f\t"}'


@pytest.mark.parametrize(
    ("is_terminal", "printed"), [(True, '{"a":"größe \\u001b[2J\\u009b2J\\u007f\\u0009"}'), (False, EVIL)]
)
def test_a_terminal_gets_no_control_characters_and_a_pipe_every_character(
    is_terminal: bool, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    Lines().print(EVIL)

    assert capsys.readouterr().out == f"{printed}\n"
