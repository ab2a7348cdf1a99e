"""The first command on a fresh machine: `make setup`, and the image's locks, with the pip that Python brings."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


@pytest.fixture
def newer_releases(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a pip that finds a newer release of each package that is required with an extra.

    pip 23.0 refuses to resolve a lock with hashes then (pip #9644). --no-deps prevents that.
    """
    links = tmp_path / "links"
    links.mkdir()
    for name, extras in _required_with_extras().items():
        _write_wheel(links, name, extras)
    found = os.environ.get("PIP_FIND_LINKS", "")
    return {**os.environ, "PIP_FIND_LINKS": f"{found} {links}".strip()}


def test_make_setup_installs_the_lock_with_the_pip_that_python_brings(
    tmp_path: Path, newer_releases: dict[str, str]
) -> None:
    venv = tmp_path / "venv"

    made = _run(["make", "--silent", "setup", f"VENV={venv}", f"PYTHON={sys.executable}"], newer_releases)

    assert made.returncode == 0, made.stdout
    assert _run([str(venv / "bin/roomcast"), "--version"], newer_releases).returncode == 0


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_the_image_installs_its_locks_with_the_pip_that_python_brings(
    tmp_path: Path, newer_releases: dict[str, str], lock: str
) -> None:
    venv = tmp_path / "venv"
    _run([sys.executable, "-m", "venv", str(venv)], newer_releases, check=True)
    options = re.findall(rf"install (.* -r ){re.escape(lock)}", DOCKERFILE)
    assert len(options) == 1

    python = str(venv / "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    installed = _run([*pip, "install", "--quiet", *shlex.split(options[0]), f"deploy/{lock}"], newer_releases)

    assert installed.returncode == 0, installed.stdout
    assert _run([*pip, "check"], newer_releases).returncode == 0


@pytest.mark.parametrize(
    "page", ["Makefile", "README.md", "deploy/Dockerfile", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_a_lock_is_never_resolved(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())

    for options in re.findall(r"pip install ((?:(?!pip install).)*?)-r \S+\.lock", text):
        assert "--no-deps" in options


def _required_with_extras() -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for distribution in distributions():
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.extras:
                wanted.setdefault(requirement.name, set()).update(requirement.extras)
    assert "coverage" in wanted  # of pytest-cov, which met it first
    return wanted


def _write_wheel(folder: Path, name: str, extras: set[str]) -> None:
    stem = f"{name.replace('-', '_')}-9999"
    info = f"{stem}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 9999", *(f"Provides-Extra: {e}" for e in extras)]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _run(command: list[str], env: dict[str, str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=check,
        timeout=600,
    )
