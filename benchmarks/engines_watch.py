"""Runs doit, and writes which models it opened and which runtimes it imported.

    python engines_watch.py RESULT SUFFIXES ARGUMENT...

SUFFIXES, separated by commas, end the names of the files that count. What Python opens is seen by an audit hook; what
libraries open past it is not, but they cannot do so without being imported.
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
    ends, opened = tuple(suffixes.split(",")), Counter[str]()

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and isinstance(given[0], (str, bytes)) and os.fsdecode(given[0]).endswith(ends):
            opened[Path(os.fsdecode(given[0])).name] += 1

    sys.addaudithook(hook)
    sys.path[0] = str(Path.cwd())
    from doit.doit_cmd import DoitMain  # noqa: PLC0415 - after the hook

    status = DoitMain().run(arguments)
    imported = [name for name in RUNTIMES if name in sys.modules]
    Path(result).write_text(json.dumps({"opened": dict(opened), "imported": imported}))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
