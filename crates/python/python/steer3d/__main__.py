"""The program `steer3d`."""

import os
import signal
import sys


def main():
    """Run the program with the arguments of this process, and end the process with its exit code."""
    from ._native import run_program

    # The program takes the signals itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = run_program(["steer3d", *sys.argv[1:]])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Threads of the program may still run: nothing of Python's clean-up may wait for them.
        os._exit(code)


if __name__ == "__main__":
    main()
