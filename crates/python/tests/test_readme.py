"""The programs of the package's README and of the documentation.

Each is run in an empty folder of its own. A comment `<!-- python ... -->` right before a program is run first: it makes what a
reader has. A program that imports PyTorch or h5py is skipped where the module is not installed.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BOOK = ROOT / "docs/src"
# The program of predictors.md serves batches on its standard input: crates/eval/tests/eval/subprocess.rs runs it.
PAGES = [
    ROOT / "crates/python/README.md",
    *sorted((BOOK / "tutorials").glob("*.md")),
    *(page for page in sorted((BOOK / "guide").glob("*.md")) if page.stem != "predictors"),
]
PROGRAM = re.compile(r"(?:<!-- python\n((?:(?!-->).)*)-->\n\n)?```python\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(before, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (before, block) in enumerate(PROGRAM.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("before", "block"), BLOCKS)
def test_example(before, block, tmp_path, monkeypatch):
    for module in ("torch", "h5py"):
        if module in block:
            pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example"])
    exec(compile(before, "before the example", "exec"), {})
    exec(compile(block, "example", "exec"), {})
