"""Runs one command and writes what it used, as JSON: `python -I -S measured.py RESULT OUTPUT COMMAND...`.

This is a small separate process, because Linux adds the memory of a parent to the peak memory of the child that it
starts. It writes:

    wall_s        seconds from just before the start to the end of the command
    cpu_s         user + system seconds of the command and of each process that it waited for (wait4)
    rss_mb        memory of the largest of these processes, not their sum
    server_cpu_s  user + system seconds of processes that detached themselves and ended, and of those they waited for:
                  the embedded Postgres. The kernel makes them children of this process (PR_SET_CHILD_SUBREAPER).
    server_rss_mb memory of the largest of these processes. Shared buffers count in each process that touched them
    began         time of the start in seconds since the epoch, to compare with the times in the command's log
    status        exit status of the command
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
            # Wait without polling until the command ends. After that, the processes that it left behind must end soon.
            pid, code, usage = os.wait4(-1, os.WNOHANG if deadline else 0)
        except ChildProcessError:
            break
        if pid == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{command}: a process that it left behind does not end")
            time.sleep(0.005)
        elif pid == child:
            wall, status = time.perf_counter() - before, os.waitstatus_to_exitcode(code)
            own_cpu, own_rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
            deadline = time.monotonic() + PATIENCE_S
        else:
            server_cpu += usage.ru_utime + usage.ru_stime
            server_rss = max(server_rss, usage.ru_maxrss)
    figures = {
        "status": status,
        "began": began,
        "wall_s": wall,
        "cpu_s": own_cpu,
        "rss_mb": own_rss / 1024,
        "server_cpu_s": server_cpu,
        "server_rss_mb": server_rss / 1024,
    }
    Path(result).write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
