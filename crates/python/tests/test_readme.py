import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example(number, tmp_path, monkeypatch):
    if "torch" in BLOCKS[number]:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"example {number + 1}", "exec"), {})
