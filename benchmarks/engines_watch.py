"""Runs doit, and writes which models it opened and which runtimes it imported.

    python engines_watch.py RESULT SUFFIXES ARGUMENT...

SUFFIXES is a comma-separated list; files whose names end with one of them count. An audit hook sees the files that
Python opens. It does not see files that a library opens itself, but then the library is among the imported ones.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

RUNTIMES = ("onnx", "onnxruntime", "openvino", "torch", "tensorrt")


def main() -> int:
    result, suffixes, *arguments = sys.argv[1:]
    counted, opened = tuple(suffixes.split(",")), Counter[str]()

    def hook(event: str, values: tuple[object, ...]) -> None:
        if event == "open" and isinstance(values[0], (str, bytes)) and os.fsdecode(values[0]).endswith(counted):
            opened[Path(os.fsdecode(values[0])).name] += 1

    sys.addaudithook(hook)
    sys.path[0] = str(Path.cwd())
    from doit.doit_cmd import DoitMain  # noqa: PLC0415 - the hook must be installed first

    status = DoitMain().run(arguments)
    imported = [name for name in RUNTIMES if name in sys.modules]
    Path(result).write_text(json.dumps({"opened": dict(opened), "imported": imported}))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
