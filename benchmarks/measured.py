"""Runs one command and writes what it used, as JSON: `python -I -S measured.py RESULT OUTPUT COMMAND...`.

A process of its own and small on purpose: Linux counts the memory of the program that starts another into the peak of the
one that is started. What is counted:

    wall_s        from just before the start to the end of the command
    cpu_s         user + system of the command and of every process it waited for (wait4)
    rss_mb        the largest single process among those; not their sum
    server_cpu_s  user + system of processes that detached themselves and ended, with all they waited for: the embedded
                  Postgres. They are reparented to this process (PR_SET_CHILD_SUBREAPER) and waited for here.
    server_rss_mb the largest single process among those; shared buffers are counted in each that touched them
    began         seconds since the epoch, to set beside the times in the command's own log
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 20.0


def main() -> int:
    result, output, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    began, before = time.time(), time.perf_counter()
    actions = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
    child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    own_cpu, own_rss, server_cpu, server_rss = 0.0, 0, 0.0, 0
    wall, status, deadline = 0.0, 0, 0.0
    while True:
        try:
            # Until the command ends, wait without polling; after it, its orphans must end soon.
            pid, code, usage = os.wait4(-1, os.WNOHANG if deadline else 0)
        except ChildProcessError:
            break
        if pid == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{command}: a process it left behind does not end")
            time.sleep(0.005)
        elif pid == child:
            wall, status = time.perf_counter() - before, os.waitstatus_to_exitcode(code)
            own_cpu, own_rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
            deadline = time.monotonic() + PATIENCE_S
        else:
            server_cpu += usage.ru_utime + usage.ru_stime
            server_rss = max(server_rss, usage.ru_maxrss)
    found = {
        "status": status,
        "began": began,
        "wall_s": wall,
        "cpu_s": own_cpu,
        "rss_mb": own_rss / 1024,
        "server_cpu_s": server_cpu,
        "server_rss_mb": server_rss / 1024,
    }
    Path(result).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
