"""An OpenVINO engine: one blob, which runs one batch or several batches at the same time."""

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
    """An imported blob.

    It is imported for one batch at a time or for several, never for both: each import loads the weights.
    """

    def __init__(self, opened: Callable[[bool], Any], streams: int, label: str) -> None:
        """Import the blob for one batch at a time.

        Args:
            opened: imports the blob. Its argument says whether several batches run at the same time.
            streams: the number of batches that can be computed at the same time.
            label: the engine's name in messages.
        """
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
        """Run one forward pass. It reads the given arrays in place; the returned arrays belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit into memory.
            EngineBuildError: the engine is closed, an input has another name, type or shape, or OpenVINO failed.
        """
        self._check(inputs)
        self._enter(queued=False)
        return self._infer(inputs) if self._slice is None else run_in_slices(self._infer, inputs, self._slice)

    @property
    def depth(self) -> int:
        """The largest number of pending batches.

        It is one more than are computed at the same time, so that the next one is ready. It is 1 if the graph has a
        fixed batch size, because its slices run one after the other.
        """
        return self._streams + 1 if self._slice is None and self._streams > 1 else 1

    def submit(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Start a batch, as `ports.QueueingEngine` describes. It reads the given arrays in place."""
        self._check(inputs)
        self._enter(queued=True)
        if not self._idle:
            raise EngineBuildError(f"The engine {self._label} has {self.depth} pending batches. Collect one first.")
        with self._translated():
            self._idle[-1].start_async(dict(inputs), share_inputs=True)
        self._under_way.append(self._idle.pop())

    def collect(self) -> dict[str, NDArray[np.float32]]:
        """Return the results of the oldest pending batch, as `ports.QueueingEngine` describes."""
        if not self._under_way:
            raise EngineBuildError(f"The engine {self._label} has no pending batch. Submit one first.")
        self._idle.append(self._under_way.popleft())
        return self._results(self._idle[-1])

    def discard(self) -> None:
        """Drop all pending batches, as `ports.QueueingEngine` describes."""
        while self._under_way:
            try:
                self.collect()
            except (EngineBuildError, OutOfDeviceMemory):  # nobody needs this batch any more
                continue

    def close(self) -> None:
        """Wait for the pending batches and release the engine's memory. Idempotent."""
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
        """Import the blob again if it is not imported in this mode. queued: for several batches at the same time."""
        if self._queued is queued:
            return
        if self._under_way:
            raise EngineBuildError(f"The engine {self._label} has pending batches. Collect them first.")
        # The old import is released first, so that two are never in memory. A failed import leaves this state, too.
        self._idle, self._queued = [], None
        with self._translated():
            compiled = self._opened(queued)
            self._idle = [compiled.create_infer_request() for _ in range(self.depth if queued else 1)]
        self._queued = queued

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        # `infer` hides a failure and leaves the outputs of the previous run (OpenVINO 2026.4, when memory runs out).
        # So the request is started and awaited instead.
        (request,) = self._idle
        with self._translated():
            request.start_async(dict(inputs), share_inputs=True)
        return self._results(request)

    def _results(self, request: Any) -> dict[str, NDArray[np.float32]]:  # noqa: ANN401 - OpenVINO ships no types
        with self._translated():
            request.wait()
            # Copy each output: the next run of the request overwrites its memory.
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
