"""An engine of OpenVINO's: one blob, run a batch at a time or several."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from preflight.adapters.openvino.library import reason
from preflight.engine.static_batch import run_in_slices
from preflight.errors import EngineBuildError
from preflight.ports import Engine, OutOfDeviceMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OpenVinoEngine"]

_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory|[Ff]ailed to allocate", re.ASCII)


class OpenVinoEngine:
    """One blob, imported for one batch at a time or for several: never both, since each has the weights in memory."""

    def __init__(self, opened: Callable[[bool], Any], streams: int, label: str) -> None:
        """opened: imports the blob; told whether for several batches at a time."""
        self._opened, self._streams, self._label = opened, streams, label
        compiled = opened(False)
        self._idle: list[Any] = [compiled.create_infer_request()]
        self._under_way: deque[Any] = deque()
        self._queued: bool | None = False
        self._closed = False
        self._dtypes = {port.get_any_name(): port.get_element_type().to_dtype() for port in compiled.inputs}
        self._outputs = [port.get_any_name() for port in compiled.outputs]
        batches = [
            port.get_partial_shape()[0] for port in compiled.inputs if port.get_partial_shape().rank.get_length()
        ]
        fixed = {batch.get_length() for batch in batches if not batch.is_dynamic}
        self._slice = fixed.pop() if len(fixed) == 1 and all(not batch.is_dynamic for batch in batches) else None

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """One forward pass; the arrays given are read in place, those returned belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit.
            EngineBuildError: closed, inputs of another name, type or shape, or a failure inside OpenVINO.
        """
        self._check(inputs)
        self._enter(queued=False)
        return self._infer(inputs) if self._slice is None else run_in_slices(self._infer, inputs, self._slice)

    @property
    def depth(self) -> int:
        """One batch more than are computed at a time, so that the next is there when one is done.

        1 for a graph that fixes its batch size: its slices are run one after the other.
        """
        return self._streams + 1 if self._slice is None and self._streams > 1 else 1

    def submit(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """As `ports.QueueingEngine`; the arrays given are read in place."""
        self._check(inputs)
        self._enter(queued=True)
        if not self._idle:
            raise EngineBuildError(f"The engine {self._label} has {self.depth} batches under way; collect one first.")
        with self._translated():
            self._idle[-1].start_async(dict(inputs), share_inputs=True)
        self._under_way.append(self._idle.pop())

    def collect(self) -> dict[str, NDArray[np.float32]]:
        """As `ports.QueueingEngine`."""
        if not self._under_way:
            raise EngineBuildError(f"The engine {self._label} has no batch under way.")
        self._idle.append(self._under_way.popleft())
        return self._results(self._idle[-1])

    def discard(self) -> None:
        """As `ports.QueueingEngine`."""
        while self._under_way:
            try:
                self.collect()
            except (EngineBuildError, OutOfDeviceMemory):  # of a batch nobody asks for any more
                continue

    def close(self) -> None:
        """Release the engine's memory, once what is under way has ended. Idempotent."""
        self.discard()
        self._idle = []
        self._closed = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        if self._closed:
            raise EngineBuildError(f"The engine {self._label} is closed.")
        found = {name: array.dtype for name, array in inputs.items()}
        if found != self._dtypes:
            raise EngineBuildError(
                f"The engine {self._label} takes {_typed(self._dtypes)}, but was given {_typed(found)}."
            )

    def _enter(self, *, queued: bool) -> None:
        """Import the blob again, the other way, where it is not imported so."""
        if self._queued is queued:
            return
        if self._under_way:
            raise EngineBuildError(f"The engine {self._label} has batches under way; collect them first.")
        # First, so that the two are never in memory together; also what a failure leaves.
        self._idle, self._queued = [], None
        with self._translated():
            compiled = self._opened(queued)
            self._idle = [compiled.create_infer_request() for _ in range(self.depth if queued else 1)]
        self._queued = queued

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        # Started and awaited, not `infer`: that one swallows a failure and leaves the outputs of the run before
        # (OpenVINO 2026.4, when memory runs out).
        (request,) = self._idle
        with self._translated():
            request.start_async(dict(inputs), share_inputs=True)
        return self._results(request)

    def _results(self, request: Any) -> dict[str, NDArray[np.float32]]:  # noqa: ANN401 - OpenVINO ships no types
        with self._translated():
            request.wait()
            # Each a copy: the request's own memory is written over by its next run.
            return {name: request.get_tensor(name).data.astype("float32", copy=True) for name in self._outputs}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from error
        except (OSError, RuntimeError) as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise OutOfDeviceMemory(reason(error)) from error
            raise EngineBuildError(f"The engine {self._label} failed: {reason(error)}") from error


def _typed(dtypes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in sorted(dtypes.items())) or "nothing"
