"""Runs a program that does not outlive the process that starts it, nor take its memory: ``python leash.py PARENT_PID
PROGRAM ARGUMENT…``.

The kernel sends it SIGTERM when its parent dies, also by SIGKILL (prctl(2), PR_SET_PDEATHSIG, Linux). That survives
the exec, so that nothing but the program itself stays in memory. It is run by its path, in an interpreter of its own:
between fork and exec a process with threads may not do this for its child.

It shares the operator's container, and a server of a tenant's says how large a row is.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_MOST_BYTES = 256 * 1024 * 1024


def main(parent: int, command: list[str]) -> None:
    """Becomes the program. Raises OSError; exits at once when the parent has died before it was tied to it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    os.execv(command[0], command)  # noqa: S606 - argv, no shell: that is its purpose


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
