"""Draw the picture of the house: `python -m tests.architecture`."""

from tests.architecture.imports import read_modules
from tests.architecture.picture import PICTURE, draw
from tests.support.paths import ROOT

if __name__ == "__main__":
    (ROOT / PICTURE).parent.mkdir(exist_ok=True)
    (ROOT / PICTURE).write_text(draw(read_modules(ROOT)), encoding="utf-8")
    print(PICTURE)
