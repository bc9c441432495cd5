"""The start of `python -I -m takeoff`: refuses unless the interpreter is isolated, then calls `command_line`.

Without -I, Python looks for modules in the working directory first. If that is a cache, the cache supplies the code
that verifies it. So this module and `takeoff/__init__.py` import only `sys` before the check: no file can shadow `sys`.
The interpreter's own imports, and a whole `takeoff/` in the working directory, run before the check. So -I is the rule.
The check only detects that it was forgotten.
"""

import sys

NOT_ISOLATED = (
    "Python takes modules from the working directory, which may be a cache;"
    " run `python -I -m takeoff CACHE --trust DIR`"
)


def not_isolated(as_json: bool) -> str:
    """Returns the refusal as takeoff.verdict writes a UsageError. Constants only: a file could shadow even `json`."""
    if not as_json:
        return f"REFUSED\n  [usage] {NOT_ISOLATED}\ncorrect the call"
    return (
        '{"cache": null, "exit_status": 18, "fail_reasons": [{"code": "usage", "file": "", "message": "'
        + NOT_ISOLATED
        + '"}], "flight_id": null, "generation": null, "manifest_hash": null, "manifest_hash_match": false,'
        ' "outcome": "fail", "per_artifact_hash_match": {}, "remedy": "correct the call", "signer": null,'
        ' "statustext": "CACHE REFUSED: verifier called wrongly", "takeoff_origin": null}'
    )


if __name__ == "__main__":
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        print(not_isolated("--json" in sys.argv))  # noqa: T201 - the verdict
        sys.exit(18)

    import os

    from takeoff.command_line import main

    # Not sys.exit: after a time-out, a thread that hangs in a read must not delay the exit.
    os._exit(main(sys.argv[1:]))
