"""Rows of many callers in one run: never exchanged, never lost, and each error to whom it concerns.

The model looks rows up in a table, so that an answer says which row it is of, and fails for an
index outside of it. It runs in a real session of ONNX Runtime.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import numpy as np
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.batching import SIZES, BatchedModel, BatchOptions, Rows, _Queue, _Request
from models.errors import InferenceFailed
from models.packs.base import FacePack
from models.packs.dlib.build import load_artifacts
from models.runtime import RuntimeOptions, open_session
from tests.house.repository import ROOT

# Bound to buffers, a run fails with the one; by itself with the other.
FAILURES = (RuntimeError, ort_state.InvalidArgument)
TABLE = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)


def lookup() -> ort.InferenceSession:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return open_session(model.SerializeToString(), RuntimeOptions(threads=1))


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    return lookup()


@contextmanager
def batched(session: ort.InferenceSession, **options: object) -> Iterator[BatchedModel]:
    model = BatchedModel(session, "index", "row", BatchOptions(**options))  # type: ignore[arg-type]
    try:
        yield model
    finally:
        model.close()


WAYS = [
    pytest.param({}, id="each caller by itself"),
    pytest.param({"gather": True, "pad": False, "bind": False}, id="gathered"),
    pytest.param({"gather": True, "bind": False}, id="padded"),
    pytest.param({"gather": True}, id="padded and bound"),
    pytest.param({"gather": True, "pad": False, "bind": True}, id="bound"),
]


@pytest.mark.parametrize("way", WAYS)
@given(
    callers=st.lists(
        st.lists(st.integers(0, 40), min_size=1, max_size=4),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_everyone_gets_the_own_rows(
    session: ort.InferenceSession, way: dict[str, object], callers: list[list[int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    asked = [[rng.integers(0, len(TABLE), n) for n in sizes] for sizes in callers]

    def call(arrays: list[Rows]) -> list[Rows]:
        return [model.run(array) for array in arrays]

    with batched(session, max_batch=8, **way) as model, ThreadPoolExecutor(len(callers)) as pool:
        answers = list(pool.map(call, asked))
    for arrays, rows in zip(asked, answers, strict=True):
        for array, row in zip(arrays, rows, strict=True):
            assert row.shape == (len(array), 3)
            np.testing.assert_array_equal(row, TABLE[array])


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_stays_what_it_was(session: ort.InferenceSession, way: dict[str, object]) -> None:
    with batched(session, **way) as model:
        first = model.run(np.array([5, 6]))
        kept = first.copy()
        model.run(np.array([7, 8]))
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_concerns_its_caller_alone(
    session: ort.InferenceSession, way: dict[str, object]
) -> None:
    together = threading.Barrier(12)

    def call(number: int) -> Rows | None:
        rows = np.arange(3) + (len(TABLE) if number % 3 == 0 else number)
        together.wait()
        try:
            return model.run(rows)
        except FAILURES:
            return None

    # Long enough that those who come together run together.
    with batched(session, wait_s=0.2, **way) as model, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(call, range(12)))
        assert [n for n, rows in enumerate(answers) if rows is None] == [0, 3, 6, 9]
        for number, rows in enumerate(answers):
            if rows is not None:
                np.testing.assert_array_equal(rows, TABLE[np.arange(3) + number])
        np.testing.assert_array_equal(model.run(np.array([1])), TABLE[[1]])


def test_rows_of_another_type_go_by_themselves(session: ort.InferenceSession) -> None:
    together = threading.Barrier(2)

    def call(rows: Rows) -> Rows | str:
        together.wait()
        try:
            return model.run(rows)
        except Exception as error:  # noqa: BLE001 - which one is up to ONNX Runtime
            return type(error).__name__

    with batched(session, gather=True, wait_s=0.2) as model, ThreadPoolExecutor(2) as pool:
        good, bad = pool.map(call, [np.arange(4), np.arange(4, dtype=np.float64)])
    np.testing.assert_array_equal(good, TABLE[:4])
    assert isinstance(bad, str)


def test_more_rows_than_a_batch_and_than_the_queue_holds(session: ort.InferenceSession) -> None:
    rows = np.random.default_rng(1).integers(0, len(TABLE), 1000)
    with batched(session, gather=True, max_batch=4) as model:
        np.testing.assert_array_equal(model.run(rows), TABLE[rows])


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_give_none(session: ort.InferenceSession, way: dict[str, object]) -> None:
    with batched(session, **way) as model:
        none = model.run(np.empty(0, dtype=np.int64))
    assert none.shape == (0, 3)
    assert none.dtype == np.float32


def test_outputs_of_unknown_size_are_run_but_not_bound() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "negative",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = open_session(made.SerializeToString())
    model = BatchedModel(session, "x", "y", BatchOptions(gather=True))
    try:
        np.testing.assert_array_equal(model.run(TABLE[:5]), -TABLE[:5])
        np.testing.assert_array_equal(model.run(TABLE[:5, :2]), -TABLE[:5, :2])
        with pytest.raises(ValueError, match="no rows"):
            model.run(TABLE[:0])
    finally:
        model.close()


def test_a_model_that_does_not_answer_row_by_row_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    wrong = BatchedModel(open_session(model.SerializeToString()), "x", "y")
    with pytest.raises(ValueError, match="made 1 rows of 3"):
        wrong.run(np.ones((3, 2), dtype=np.float32))


def test_a_padded_batch_has_one_of_the_sizes(session: ort.InferenceSession) -> None:
    with pytest.raises(ValueError, match="max_batch"):
        BatchedModel(session, "index", "row", BatchOptions(gather=True, max_batch=24))
    with batched(session, gather=True, max_batch=SIZES[-1]) as model:
        for count in range(1, SIZES[-1] + 1):
            model.run(np.arange(count))
        # Buffers are kept for the sizes alone.
        assert sorted(key[0] for key in model._model._bound) == list(SIZES)


# --- ending ----------------------------------------------------------------------------------


def test_a_closed_model_says_so(session: ort.InferenceSession) -> None:
    with batched(session, gather=True) as model:
        model.run(np.array([1]))
    model.close()
    with pytest.raises(InferenceFailed) as caught:
        model.run(np.array([1]))
    assert caught.value.code == "inference_failed"
    assert caught.value.remedy


def test_what_waits_when_it_is_closed_is_still_done(session: ort.InferenceSession) -> None:
    with batched(session, gather=True, wait_s=60.0) as model, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.run, np.array([3]))
        model.close()
        # Unless it was closed before the rows were handed in.
        with suppress(InferenceFailed):
            np.testing.assert_array_equal(waiting.result(30), TABLE[[3]])


def threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


def test_the_thread_ends_with_its_model(session: ort.InferenceSession) -> None:
    before = threads()
    model = BatchedModel(session, "index", "row", BatchOptions(gather=True))
    model.run(np.array([1]))
    assert threads() == before + 1
    (serving,) = [t for t in threading.enumerate() if t.name == "batches"][-1:]
    del model
    gc.collect()
    serving.join(30)
    assert not serving.is_alive()


# --- the queue -------------------------------------------------------------------------------


def request(count: int, dtype: type = np.float64) -> _Request:
    return _Request(np.zeros((count, 2), dtype=dtype))


def test_first_come_first_served_up_to_the_bound() -> None:
    queue = _Queue(8, 0.0)
    requests = [request(n) for n in (3, 3, 3, 8, 1)]
    for each in requests:
        queue._put(each)
    assert [queue.take() for _ in range(3)] == [requests[:2], requests[2:3], requests[3:4]]
    assert queue.take() == requests[4:]


def test_only_rows_of_one_kind_run_together() -> None:
    queue = _Queue(8, 0.0)
    requests = [request(1), request(1), request(1, dtype=np.float32), request(1)]
    for each in requests:
        queue._put(each)
    assert [len(queue.take()) for _ in range(3)] == [2, 1, 1]


def test_a_full_queue_holds_whoever_comes_until_there_is_room() -> None:
    queue = _Queue(1, 0.0)
    for _ in range(16):
        queue._put(request(1))
    late = request(1)
    thread = threading.Thread(target=queue._put, args=(late,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    queue.take()
    thread.join(30)
    assert not thread.is_alive()
    rest = [queue.take() for _ in range(16)]
    assert rest[-1] == [late]


class Interrupted(BaseException):
    pass


def test_an_interrupted_caller_harms_nobody() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted

    queue = _Queue(8, 0.0)
    caller = threading.get_ident()

    def interrupt() -> None:
        with queue._changed:
            queue._changed.wait_for(lambda: len(queue._waiting) == 2)
        signal.pthread_kill(caller, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(Interrupted):
            queue.outputs([np.array([1]), np.array([2])])
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    taken = queue.take()
    assert [each.future.cancelled() for each in taken] == [True, True]
    assert [each for each in taken if each.future.set_running_or_notify_cancel()] == []


# --- the default pack ------------------------------------------------------------------------


def test_the_embedder_gathered_as_on_a_gpu_gives_the_same_vectors(
    pack: FacePack, pack_cache: Path
) -> None:
    chips = np.random.default_rng(2).integers(0, 255, (5, 150, 150, 3), dtype=np.uint8)
    session = open_session(load_artifacts(pack_cache / "dlib").embedder, RuntimeOptions(threads=1))
    model = BatchedModel(session, "pixels", "embedding", BatchOptions(gather=True, max_batch=32))
    try:
        np.testing.assert_allclose(model.run(chips), pack.embed(list(chips)), atol=1e-6)
    finally:
        model.close()


# --- a process that is forked ----------------------------------------------------------------

FORKED = """
import os, sys, threading
import numpy as np
from models.batching import BatchedModel, BatchOptions
from models.errors import InferenceFailed
from tests.models.test_batching import lookup

model = BatchedModel(lookup(), "index", "row", BatchOptions(gather=True))
rows = np.arange(3)
model.run(rows)
# As if another thread was handing something in just then.
model._queue._changed.acquire()
child = os.fork()
if child == 0:
    try:
        model.run(rows)
    except InferenceFailed as error:
        print("forked" in error.detail and bool(error.remedy), flush=True)
    model.close()
    os._exit(0)
model._queue._changed.release()
assert os.waitpid(child, 0)[1] == 0
assert len(model.run(rows)) == 3, "the process that opened it goes on"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_that_the_model_stayed_behind() -> None:
    # Where it is not told, it waits for ever.
    done = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
