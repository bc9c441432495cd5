"""The start of `python -I -m takeoff_report`: refuses unless the interpreter is isolated, as `takeoff` does and for its reasons.

Nothing but `sys` is imported before the check: the working directory may be the cache that is to be judged.
"""

import sys

NOT_ISOLATED = (
    "REFUSED: the interpreter takes modules from the working directory, which may be a cache;"
    " call `python -I -m takeoff_report ...`"
)

if __name__ == "__main__":
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.stderr.write(f"<3>{NOT_ISOLATED}\n")
        sys.exit(18)

    import os

    from takeoff_report.command_line import main

    # Not sys.exit: a thread that hangs in a write must not delay the status.
    status = main(sys.argv[1:])
    os._exit(status)
