"""Commands of the program from Python."""

import json
import re
import subprocess
import sys
import tempfile

from ._native import Steer3dError
from ._progress import listener

_ERROR = "steer3d: error: "
_PROGRESS = re.compile(r"(.+?): (\d+)/(\d+) (.*) \(eta .*\)\n")


def program(*words, progress=False, **options):
    """Run a command of the program `steer3d` in a process of its own, and give its result.

    Words are arguments, `voxel_size=2` is `--voxel-size 2`, `resume=True` is `--resume`, and lists are joined by commas:
    `program("equivariance", "--kind", "kernel")`, `program("dataset", "build", "scans", size=48, out="scans.h5")`.
    `steer3d --help` names all commands. The result is what `--json` prints, as a dictionary; `None` where that is nothing.
    `progress` is as in `evaluate`; the program tells it every 15 seconds.

    Raises `Steer3dError` with the message of the program, and `KeyboardInterrupt` when it was interrupted.
    """
    command, hears = [sys.executable, "-m", "steer3d", *map(str, words), *_given(options), "--json"], listener(progress)
    if hears is None:
        command.append("--quiet")
    code, result, errors = _run(command, hears)
    if code == 130:
        raise KeyboardInterrupt
    if code not in (0, 3):
        # What was told before the error is left out.
        text = errors[max(errors.find(_ERROR), 0) :].strip() or f"steer3d ended with exit code {code}"
        raise Steer3dError(text.removeprefix(_ERROR))
    try:
        return json.loads(result) if result.strip() else None
    except json.JSONDecodeError:
        return {"text": result}


def _run(command, hears):
    """Exit code, standard output and standard error of a command; `hears`, if any, is told the lines of progress there."""
    with tempfile.TemporaryFile("w+") as result:
        begun = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=result, stderr=subprocess.PIPE, text=True)
        with begun as process:
            try:
                errors = _heard(process.stderr, hears)
            except BaseException:
                process.kill()
                raise
        result.seek(0)
        return process.returncode, result.read(), errors


def _heard(lines, hears):
    """Tells `hears` the lines that are progress, and gives the others."""
    others = []
    for line in lines:
        found = _PROGRESS.fullmatch(line)
        if hears and found:
            hears(found[1], int(found[2]), int(found[3]), found[4])
        else:
            others.append(line)
    if hasattr(hears, "close"):
        hears.close()
    return "".join(others)


def _given(options):
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            yield option
        elif value is not None and value is not False:
            yield option
            yield ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
