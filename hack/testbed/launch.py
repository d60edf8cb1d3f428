"""Becomes another program that dies with its parent: `python launch.py PARENT_PID PROGRAM ARGS…`.

Run as a script and never imported. The kernel's "kill me when my parent dies" (Linux) survives the exec, so it holds
even when the parent is killed with -9. A `preexec_fn` would do the same in one step less, but runs Python between fork
and exec of a process that may have threads, which can deadlock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


main()
