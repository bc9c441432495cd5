"""The start of `python -I -m takeoff`: refuses unless the interpreter is isolated, then hands over to `command_line`.

Without -I, `-m` looks for modules in the working directory first. Where that is a cache, the cache would bring the
code that judges it. So nothing but `sys`, which no file can shadow, is imported here or in `takeoff/__init__.py` before
the check. The interpreter's own imports and a whole `takeoff/` in the working directory come earlier still: -I is the
rule, and the check only finds out who forgot it.
"""

import sys

NOT_ISOLATED = (
    "the interpreter takes modules from the working directory, which may be a cache;"
    " call `python -I -m takeoff CACHE --trust DIR`"
)


def not_isolated(as_json: bool) -> str:
    """The refusal, as takeoff.verdict writes it for a UsageError. Constants: even `json` could be shadowed here."""
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

    # Not sys.exit: a thread that hangs in a read must not delay the status after a time-out.
    os._exit(main(sys.argv[1:]))
