"""Commands of the program from Python."""

import json
import subprocess
import sys

from ._native import Steer3dError


def program(*words, **options):
    """Run a command of the program `steer3d` in a process of its own, and give its result.

    Words are arguments, `voxel_size=2` is `--voxel-size 2`, `resume=True` is `--resume`, and lists are joined by commas:
    `program("equivariance", "--kind", "kernel")`, `program("dataset", "build", "scans", size=48, out="scans.h5")`.
    `steer3d --help` names all commands. The result is what `--json` prints, as a dictionary; `None` where that is nothing.

    Raises `Steer3dError` with the message of the program, and `KeyboardInterrupt` when it was interrupted.
    """
    command = [sys.executable, "-m", "steer3d", *map(str, words), *_given(options), "--json", "--quiet"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode not in (0, 3):
        text = done.stderr.strip() or f"steer3d ended with exit code {done.returncode}"
        raise Steer3dError(text.removeprefix("steer3d: error: "))
    try:
        return json.loads(done.stdout) if done.stdout.strip() else None
    except json.JSONDecodeError:
        return {"text": done.stdout}


def _given(options):
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            yield option
        elif value is not None and value is not False:
            yield option
            yield ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
