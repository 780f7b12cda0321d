"""One model, many callers: what they hand in at about the same time runs together on a GPU.

A GPU takes nearly as long for one face as for sixteen. So there one thread runs the model for all:
it takes what waits, up to a bound, and pads it to one of a few sizes, because each size that
occurs costs memory and, with TensorRT, a place in what was compiled.

On the processor every caller runs its own rows in its own thread. Gathering was measured there on
two cores (batches of 4 and 16 of the default embedder, from 1 to 4 callers): with two threads in a
run it lost, with one it gained a fifth for 2 and 4 callers of 4 crops, and nothing otherwise.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.errors import InferenceFailed
from models.runtime import gpu_of, loud

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that a GPU sees; fewer are padded to the next."""

WAIT_S: Final = 0.002
"""How long a GPU waits for more rows where fewer than a full batch are there."""

QUEUED_BATCHES: Final = 16
"""Full batches that may wait; who comes with more is held until there is room."""

Rows = NDArray[Any]

_TYPES: Final[dict[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How callers are gathered. ``max_batch``: most rows of one run, at most 64 where padded.

    ``gather``: one thread runs the model for all callers, or each caller does (``None``: gathered
    on a GPU). ``pad``: to :data:`SIZES`. ``bind``: keep the buffers of each size on the device.
    Both follow ``gather`` where they are ``None``. ``wait_s``: see :data:`WAIT_S`.
    """

    max_batch: int = 64
    gather: bool | None = None
    pad: bool | None = None
    bind: bool | None = None
    wait_s: float = WAIT_S


class BatchedModel:
    """Runs a model of one input and one output, both with rows along the first axis.

    Safe to share between threads. Each row of the output depends on the same row of the input
    alone; that is what makes rows of different callers fit into one run.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        input_name: str,
        output_name: str,
        options: BatchOptions | None = None,
    ) -> None:
        """Raises ValueError where ``max_batch`` is no size that can be padded to."""
        options = options or BatchOptions()
        gather = gpu_of(session) is not None if options.gather is None else options.gather
        pad = gather if options.pad is None else options.pad
        bind = gather if options.bind is None else options.bind
        if options.max_batch < 1 or (pad and options.max_batch not in SIZES):
            raise ValueError(f"max_batch is one of {SIZES} where batches are padded")
        self._model = _Model(session, input_name, output_name, pad=pad, bind=bind and gather)
        self._max_batch = options.max_batch
        self._queue: _Queue | None = None
        if gather:
            self._queue = _Queue(options.max_batch, options.wait_s)
            # The thread knows the queue and the model, not this object, which can so go away.
            thread = threading.Thread(
                target=_serve, args=(self._queue, self._model), name="batches", daemon=True
            )
            thread.start()
            weakref.finalize(self, self._queue.close)

    def run(self, rows: Rows) -> Rows:
        """The model's output for ``rows``, of any number, in their order.

        ``rows``: of the shape and type that the model takes, rows first. No rows give none.

        Raises:
            InferenceFailed: the GPU failed while these rows were in it (``GpuLost`` if for good),
                or the model is closed, or its thread is in the process that this one was forked
                from.
            ValueError: no rows for a model whose output has no fixed size.
        """
        if not len(rows):
            return self._model.nothing()
        pieces = [rows[at : at + self._max_batch] for at in range(0, len(rows), self._max_batch)]
        if self._queue is None:
            outputs = [self._model.run(piece) for piece in pieces]
        else:
            outputs = self._queue.outputs(pieces)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def close(self) -> None:
        """Finish what waits and end the thread; later calls of :meth:`run` fail. Idempotent."""
        if self._queue is not None:
            self._queue.close()


# --- the queue -------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Request:
    rows: Rows
    future: Future[Rows] = field(default_factory=Future)

    def fits(self, other: _Request) -> bool:
        """Whether the rows of both may stand in one array."""
        return self.rows.shape[1:] == other.rows.shape[1:] and self.rows.dtype == other.rows.dtype


class _Queue:
    """First come, first served: so nobody starves, whatever others hand in."""

    def __init__(self, max_batch: int, wait_s: float) -> None:
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._waiting: deque[_Request] = deque()
        self._rows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._process = os.getpid()

    def outputs(self, pieces: list[Rows]) -> list[Rows]:
        """Hand in each piece and wait for all. A caller that is interrupted takes its own back."""
        if self._forked:
            raise InferenceFailed(
                "This process was forked from one that had opened the model; what runs the model "
                "stayed there, and CUDA cannot be used here.",
                remedy="Open the face pack after the fork, or start the process anew (spawn).",
            )
        requests: list[_Request] = []
        try:
            for piece in pieces:
                request = _Request(piece)
                requests.append(request)
                self._put(request)
            return [request.future.result() for request in requests]
        finally:
            # Where all went well there is nothing left to take back.
            for request in requests:
                request.future.cancel()

    def _put(self, request: _Request) -> None:
        with self._changed:
            room = self._max_batch * QUEUED_BATCHES - len(request.rows)
            self._changed.wait_for(lambda: self._closed or self._rows <= room)
            if self._closed:
                raise InferenceFailed(
                    "The model is closed.", remedy="Open the face pack again, or start again."
                )
            self._waiting.append(request)
            self._rows += len(request.rows)
            self._changed.notify_all()

    def take(self) -> list[_Request]:
        """The next requests to run together, at least one; none once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            if not self._waiting:
                return []
            batch = [self._pop()]
            rows = len(batch[0].rows)
            until = time.monotonic() + self._wait_s
            while rows < self._max_batch:
                if self._waiting:
                    following = self._waiting[0]
                    if not batch[0].fits(following) or rows + len(following.rows) > self._max_batch:
                        break
                    batch.append(self._pop())
                    rows += len(following.rows)
                elif self._closed or (left := until - time.monotonic()) <= 0:
                    break
                else:
                    self._changed.wait(left)
            self._changed.notify_all()
            return batch

    def _pop(self) -> _Request:
        request = self._waiting.popleft()
        self._rows -= len(request.rows)
        return request

    @property
    def _forked(self) -> bool:
        """Whether the thread stayed behind. Asked before the lock, which somebody may have held."""
        return os.getpid() != self._process

    def close(self) -> None:
        if self._forked:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _serve(queue: _Queue, model: _Model) -> None:
    """Run what is handed in until the queue is closed and empty."""
    while batch := queue.take():
        _answer([r for r in batch if r.future.set_running_or_notify_cancel()], model)
        # Or the last caller's rows and results would be kept until somebody else comes.
        del batch


def _answer(batch: list[_Request], model: _Model) -> None:
    try:
        output = model.run(_together(batch)) if batch else None
        at = 0
        for request in batch:
            assert output is not None
            # A copy: a slice would keep everybody's rows alive, and show them to who looks.
            request.future.set_result(output[at : at + len(request.rows)].copy())
            at += len(request.rows)
    except BaseException as error:  # noqa: BLE001 - it belongs to the callers, not to this thread
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        # Whose rows they were cannot be told: each runs alone, and fails alone.
        for request in batch:
            if not request.future.done():
                _answer([request], model)


def _together(batch: list[_Request]) -> Rows:
    return batch[0].rows if len(batch) == 1 else np.concatenate([r.rows for r in batch])


# --- the model -------------------------------------------------------------------------------


class _Model:
    """The one place where the session is called."""

    def __init__(
        self,
        session: ort.InferenceSession,
        input_name: str,
        output_name: str,
        *,
        pad: bool,
        bind: bool,
    ) -> None:
        self._session = session
        self._input, self._output = input_name, output_name
        self._pad = pad
        (meta,) = [each for each in session.get_outputs() if each.name == output_name]
        tail = meta.shape[1:]
        self._tail = tuple(tail) if all(isinstance(size, int) for size in tail) else None
        self._type = _TYPES.get(meta.type)
        self._gpu = gpu_of(session)
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self._bind = bind and self._tail is not None and self._type is not None

    def nothing(self) -> Rows:
        if self._tail is None:
            raise ValueError("no rows were given, and the size of the output is not known")
        return np.empty((0, *self._tail), dtype=self._type)

    def run(self, rows: Rows) -> Rows:
        count = len(rows)
        if self._pad:
            size = next((size for size in SIZES if size >= count), count)
            if size > count:
                padding = np.zeros((size - count, *rows.shape[1:]), dtype=rows.dtype)
                rows = np.concatenate([rows, padding])
        with loud(self._session):
            output = self._run_bound(rows) if self._bind else self._run_plain(rows)
        if len(output) != len(rows):
            raise ValueError(f"the model made {len(output)} rows of {len(rows)}")
        return output[:count]

    def _run_plain(self, rows: Rows) -> Rows:
        return np.asarray(self._session.run([self._output], {self._input: rows})[0])

    def _run_bound(self, rows: Rows) -> Rows:
        key = (*rows.shape, rows.dtype.num)
        bound = self._bound.get(key)
        if bound is not None:
            return bound.run(rows)
        assert self._tail is not None
        shape = (len(rows), *self._tail)
        bound = _Bound(self._session, self._input, self._output, rows, shape, self._type, self._gpu)
        output = bound.run(rows)
        # Kept once it has run. Only a few sizes occur where batches are padded; else one is kept.
        if not self._pad:
            self._bound.clear()
        self._bound[key] = bound
        return output


class _Bound:
    """Buffers of one size that stay on the device, so that a run allocates nothing for them.

    For one thread. ``gpu`` None keeps them in the processor's memory, by the same calls.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        input_name: str,
        output_name: str,
        rows: Rows,
        shape: tuple[int, ...],
        kind: type[np.generic] | None,
        gpu: int | None,
    ) -> None:
        place = ("cpu", 0) if gpu is None else ("cuda", gpu)
        # On the processor the value is a view of the array that it is made of.
        self._given = ort.OrtValue.ortvalue_from_numpy(np.array(rows, order="C"), *place)
        self._answer = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, *place)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(input_name, self._given)
        self._binding.bind_ortvalue_output(output_name, self._answer)
        self._session = session

    def run(self, rows: Rows) -> Rows:
        self._given.update_inplace(np.ascontiguousarray(rows))
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        # The buffer is written again by the next run.
        return np.array(self._answer.numpy())
