"""Runs `mlserver start` so that it cannot outlive its supervisor. Standard library only.

Called by the supervisor as `python -I -u runner.py <descriptor> <run folder>`, perhaps with the
Python of an isolated environment in which Slipway is not installed. `descriptor` is the reading
end of a pipe whose other end only the supervisor holds: when it dies, however it dies, the pipe
ends, and so does this process with all that the model may have started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its supervisor, then become MLServer."""
    descriptor, folder = int(sys.argv[1]), sys.argv[2]
    threading.Thread(target=_die_with, args=(descriptor,), daemon=True).start()
    if sys.platform == "linux":
        # A model that holds the interpreter's lock starves the thread above; the kernel it cannot.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What the bare command does; `python -m mlserver.cli` does not exist.
    sys.argv = ["mlserver", "start", folder]
    from mlserver.cli import main as mlserver

    mlserver()


def _die_with(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
