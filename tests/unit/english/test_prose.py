"""The check of the words: it finds phrases in prose, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.english.__main__ import PATTERNS, check, count, findings
from tests.english.prose import files, prose
from tests.support.paths import ROOT

EXAMPLES = (
    "It begins anew",
    "Nobody knows",
    "somebody waits",
    "Whoever may",
    "for whom it is",
    "Who was told no position",
    "clients are told of it",
    "hears of no loss",
    "so it is said",
    "the application has its say",
    "anonymous clients are let in",
    "what becomes of it",
    "a client that comes back",
    "the rest goes on",
    "what is kept",
    "what comes after",
    "what has happened",
    "what waits",
    "who it is",
    "operators are the ones who",
    "how it is and not what to change",
    "retried in vain",
    "it is no fault of ours",
    "as it stands there",
    "it works all the same",
    "null is as good as absent",
    "in the place of data",
    "a good token",
    "a payload that is no JSON",
    "nothing but its subscription",
    "could not be, inside of an answer",
    "So many wait at most",
    "what it shall decide alone",
    "the epoch ends, once",
)


def found(folder: Path, name: str, text: str) -> list[tuple[int, str]]:
    """Return the line of each phrase in a file of this text, and the phrase."""
    path = folder / name
    path.write_text(text)
    return [(line, phrase.partition(" -> ")[0]) for line, phrase in findings(prose(path))]


@pytest.mark.parametrize("phrase", EXAMPLES)
def test_a_phrase_is_found_in_pages_docstrings_and_comments(phrase: str, tmp_path: Path) -> None:
    assert found(tmp_path, "page.md", f"# Page\n\n{phrase} today.\n")[0][0] == 3
    assert found(tmp_path, "a.py", f'"""A module.\n\n{phrase} today.\n"""\n')[0][0] == 3
    assert found(tmp_path, "b.py", f"x = 1  # {phrase} today\n")[0][0] == 1
    assert found(tmp_path, "c.lua", f"local x = 1\n-- {phrase} today\n")[0][0] == 2


def test_each_phrase_has_an_example() -> None:
    assert [pattern.pattern for pattern, _ in PATTERNS if not any(map(pattern.search, EXAMPLES))] == []


@pytest.mark.parametrize("name", ["compose.yaml", "Dockerfile", "Makefile", "nginx.conf", "pyproject.toml"])
def test_a_phrase_is_found_in_the_comments_of(name: str, tmp_path: Path) -> None:
    assert found(tmp_path, name, "# Begins anew\nlock: anew  ## write the locks anew\n") == [(1, "anew"), (2, "anew")]


def test_a_docstring_of_a_class_a_function_and_an_attribute(tmp_path: Path) -> None:
    text = (
        'class A:\n    """Nobody."""\n\n    x: int\n    """Anew."""\n\n    async def b(self):\n        """Whoever."""\n'
    )

    assert found(tmp_path, "a.py", text) == [(2, "Nobody"), (5, "Anew"), (8, "Whoever")]


def test_a_phrase_that_goes_over_two_lines_is_found_where_it_begins(tmp_path: Path) -> None:
    assert found(tmp_path, "a.py", "# The client is\n# there; it comes\n# back then.\n") == [(2, "comes back")]
    assert found(tmp_path, "page.md", "It comes\n\nback.\n") == []


def test_a_question_may_begin_with_who(tmp_path: Path) -> None:
    assert found(tmp_path, "page.md", "## Who can publish?\n") == []
    assert found(tmp_path, "page.md", "Who publishes waits.\n") == [(1, "Who")]


def test_code_and_strings_are_no_prose(tmp_path: Path) -> None:
    code = 'told = "nobody"\nanew = f"{told} comes back # anew"\nx = """\nWhoever\n"""\nprint("# whom")\n'

    assert found(tmp_path, "a.py", code) == []
    assert found(tmp_path, "a.py", '"""Return `nobody` or `[anew]`, and ``whom``."""\n') == []
    assert found(tmp_path, "a.lua", "local told = anew\n") == []
    assert found(tmp_path, "compose.yaml", "nobody: anew#whoever\n") == []


def test_code_in_pages_is_no_prose(tmp_path: Path) -> None:
    assert found(tmp_path, "page.md", "```sh\necho anew\n```\nAnew.\n") == [(4, "Anew")]
    assert found(tmp_path, "page.md", "````md\n```\nanew\n```\nanew\n````\nAnew.\n") == [(7, "Anew")]
    assert found(tmp_path, "page.md", '| `may_publish` | `"nobody"`,\n`nobody\nelse` | anew\n') == [(3, "anew")]


def test_the_check_fails_on_a_planted_phrase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "page.md").write_text("It works.\n")
    assert check(tmp_path) == 0

    (tmp_path / "new" / "page.md").write_text("It works.\nWhat is kept goes.\n")

    assert check(tmp_path) == 1
    assert capsys.readouterr().out == "new/page.md:2: What is kept -> the noun: entries\n"


def test_hidden_folders_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    for folder in (".venv", "node_modules", "src"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("")

    assert files(tmp_path) == [Path("src/a.py")]


def test_the_density_is_printed_the_worst_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("one two three four what\n")
    (tmp_path / "b.md").write_text("who nobody\n")

    count(tmp_path)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [["2", "0.0", "1000.0", "b.md"], ["5", "200.0", "0.0", "a.md"], ["7", "142.9", "285.7", "total"]]


def test_the_command_is_green_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.english"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.returncode) == ("", 0)
