"""The entry point of `python -I -m takeoff_report`. It runs only in an isolated interpreter, as `takeoff` does.

Only `sys` is imported before this check, because the working directory may be the cache to be verified.
"""

import sys

NOT_ISOLATED = (
    "REFUSED: the interpreter imports modules from the working directory, which may be a cache;"
    " run `python -I -m takeoff_report ...`"
)

if __name__ == "__main__":
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.stderr.write(f"<3>{NOT_ISOLATED}\n")
        sys.exit(18)

    import os

    from takeoff_report.command_line import main

    # sys.exit would wait for threads. A thread that hangs in a write must not delay the exit status.
    status = main(sys.argv[1:])
    os._exit(status)
