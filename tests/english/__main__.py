"""Refuse mannered phrases in prose: `python -m tests.english [--count]`."""

import argparse
import re
import sys
from pathlib import Path

from tests.english.phrases import PHRASES
from tests.english.prose import files, prose

SPACE = r"(?:[ \t]+|[ \t]*\n[ \t]*)"  # not across an empty line
PATTERNS = [(re.compile(rf"\b(?:{p.replace(' ', SPACE)})(?!\w)", re.IGNORECASE), PHRASES[p]) for p in PHRASES]
COUNTED = [re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in ("what|whatever", "who|whoever|nobody|somebody")]


def findings(text: str) -> list[tuple[int, str]]:
    """Return the line of each phrase, and the phrase with the words to write instead."""
    found = ((match, instead) for pattern, instead in PATTERNS for match in pattern.finditer(text))
    return sorted((text.count("\n", 0, m.start()) + 1, f"{' '.join(m[0].split())} -> {new}") for m, new in found)


def check(root: Path) -> int:
    """Print each phrase; return the exit code."""
    code = 0
    for name in files(root):
        for line, phrase in findings(prose(root / name)):
            print(f"{name.as_posix()}:{line}: {phrase}")
            code = 1
    return code


def count(root: Path) -> int:
    """Print for each file how many of 1,000 words are `what` or `who`, or of their kind, the worst first."""
    texts = {name.as_posix(): prose(root / name) for name in files(root)}
    rows = sorted(((_densities(text), name) for name, text in texts.items()), key=lambda row: -sum(row[0][1:]))
    rows.append((_densities("\n".join(texts.values())), "total"))
    print("  words   what    who   per 1,000 words")
    for (words, what, who), name in rows:
        print(f"{words:7} {what:6.1f} {who:6.1f}   {name}")
    return 0


def _densities(text: str) -> tuple[float, ...]:
    words = len(text.split())
    return (words, *(1000 * len(pattern.findall(text)) / max(words, 1) for pattern in COUNTED))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.english", description=__doc__)
    parser.add_argument("--count", action="store_true", help="print the density of 'what' and 'who' instead")
    run = count if parser.parse_args().count else check
    sys.exit(run(Path(__file__).parents[2]))
