"""Many probes against codes at once: a blocked product of integers, and the best rows of each.

ONNX Runtime's ``MatMulInteger`` multiplies a block of codes with all probes while the block is in
the cache, where a scan reads all codes once for each probe. The product of bytes is exact: what
comes out are integers, and a block's order of summation changes nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from indexer.vectors.parts import Best, Keep, Rows
from indexer.vectors.quantise import ZERO, CodeArray
from models.runtime import RuntimeOptions, open_session

StepArray = NDArray[np.int8]

# Rows in one product. Measured at 64 probes of 128 and of 512 components: 2048 to 8192 rows are
# alike, 32768 are a quarter slower because the products no longer fit into the cache.
_BLOCK: Final = 8192
_FIRST_BLOCK: Final = 1024
# Rows of which scores are looked at first, and how many times as many have to be there for it.
_SAMPLE: Final = 8192
_SAMPLE_FROM: Final = 8
# Probes are padded to this many, so that eight comparisons are looked at as one 64-bit word.
_WORD: Final = 8
_STEPS: Final = 127
_KEY_BITS: Final = 63
_LOWEST: Final = np.iinfo(np.int32).min
_HIGHEST: Final = np.iinfo(np.int32).max


def best_by_product(
    codes: CodeArray, steps: StepArray, fetch: int, start: int, stop: int, keep: Keep | None
) -> list[Best]:
    """The ``fetch`` best of the rows ``start`` to ``stop`` of uint8 ``codes`` (rows, d).

    ``steps``: int8 (probes, d). Of all rows, those that ``keep`` (bool (rows,)) leaves out are
    multiplied and passed over: for filters that keep most.
    """
    return _best(codes, steps, fetch, None, start, stop, keep)


def best_of_rows(codes: CodeArray, steps: StepArray, fetch: int, rows: Rows) -> list[Best]:
    """The ``fetch`` best of ``rows`` alone, ascending positions: for filters that keep few."""
    return _best(codes, steps, fetch, rows, 0, len(rows), None)


def _best(
    codes: CodeArray,
    steps: StepArray,
    fetch: int,
    rows: Rows | None,
    start: int,
    stop: int,
    keep: Keep | None,
    *,
    sample: bool = True,
) -> list[Best]:
    probes, dimension = steps.shape
    columns = -(-probes // _WORD) * _WORD
    factor = np.zeros((dimension, columns), np.int8)
    factor[:, :probes] = steps.T
    multiply = _Product(factor)
    found = _Found(probes, columns, fetch, dimension, stop)
    sampled = sample and stop - start >= _SAMPLE_FROM * _SAMPLE
    if sampled:
        at = np.linspace(start, stop - 1, _SAMPLE).astype(np.int64)
        found.guess(*_sampled(codes, multiply, columns, at, rows, keep), stop - start)
    block = min(_BLOCK, max(stop - start, 1))
    products = np.empty((block, columns), np.int32)
    above = np.empty((block, columns), np.bool_)
    gathered = None if rows is None else np.empty((block, dimension), np.uint8)
    position = start
    # Nothing is known at first and all rows are taken: few, then twice as many as were seen.
    size = block if sampled else _FIRST_BLOCK
    while position < stop:
        size = min(size, block, stop - position)
        if rows is None or gathered is None:
            part = codes[position : position + size]
        else:
            part = gathered[:size]
            # mode="clip" writes straight into `out`; the positions are all inside.
            np.take(codes, rows[position : position + size], axis=0, out=part, mode="clip")
        multiply(part, products[:size])
        np.greater(products[:size], found.floor, out=above[:size])
        words = np.flatnonzero(above[:size].view(np.uint64))
        if len(words):
            bits = np.flatnonzero(above[:size].reshape(-1, _WORD)[words])
            flat = words[bits // _WORD] * _WORD + bits % _WORD
            at, probe = np.divmod(flat, columns)
            at += position
            scores = products[:size].reshape(-1)[flat]
            if keep is not None:
                chosen = keep[at]
                at, probe, scores = at[chosen], probe[chosen], scores[chosen]
            found.add(at, probe, scores)
        position += size
        size = block if sampled else position - start
    out = found.best(rows)
    short = [index for index, best in enumerate(out) if sampled and len(best.rows) < fetch]
    if short:
        # The sample promised too much: without it for these.
        again = _best(codes, steps[short], fetch, rows, start, stop, keep, sample=False)
        for index, best in zip(short, again, strict=True):
            out[index] = best
    return out


def _sampled(
    codes: CodeArray,
    multiply: _Product,
    columns: int,
    at: Rows,
    rows: Rows | None,
    keep: Keep | None,
) -> tuple[NDArray[np.int32], int]:
    """Products of the rows at ``at``, int32 (those that are looked at, columns), and how many
    were drawn."""
    drawn = at if rows is None else rows[at]
    if keep is not None:
        drawn = drawn[keep[drawn]]
    products = np.empty((len(drawn), columns), np.int32)
    multiply(np.take(codes, drawn, axis=0), products)
    return products, len(at)


class _Found:
    """What was found for each probe so far, and the score from which a row is worth keeping.

    Probe, score and row are kept in one integer, so that one plain sort puts them in order: by
    probe, the best score first. ``rows`` is more than any position.
    """

    def __init__(self, probes: int, columns: int, fetch: int, dimension: int, rows: int) -> None:
        self._probes, self._fetch = probes, fetch
        self._top = _STEPS * ZERO * dimension
        self._row_bits = rows.bit_length()
        self._probe_shift = self._row_bits + (2 * self._top).bit_length()
        if self._probe_shift + probes.bit_length() >= _KEY_BITS:
            raise ValueError(f"{probes} probes of {rows} rows are too many at once")
        self.floor = np.full(columns, _HIGHEST, np.int32)
        self.floor[:probes] = _LOWEST
        self._kept = np.empty(0, np.int64)
        self._new: list[NDArray[np.int64]] = []
        self._waiting = 0

    def guess(self, products: NDArray[np.int32], drawn: int, total: int) -> None:
        """Start from floors that about twice ``fetch`` rows pass, going by a sample.

        Of the best ``fetch`` rows about ``fetch * drawn / total`` are in the sample, give or take
        the root of that (a Poisson number). Four such roots are left as room, so that a floor
        which turns out too high is rare; it is noticed, because too few rows pass.
        """
        expected = self._fetch * drawn / total
        rank = int(expected + 4 * expected**0.5) + 4
        if rank <= len(products):
            own = np.ascontiguousarray(products[:, : self._probes].T)
            self.floor[: self._probes] = np.partition(own, len(products) - rank)[:, -rank] - 1

    def add(self, rows: Rows, probes: Rows, scores: NDArray[np.int32]) -> None:
        keys = (probes << self._probe_shift) + (
            (self._top - scores.astype(np.int64)) << self._row_bits
        )
        keys += rows
        self._new.append(keys)
        self._waiting += len(keys)
        if self._waiting > self._probes * self._fetch:
            self._prune()

    def _prune(self) -> None:
        """Drop what is not among the best of its probe, and raise the floors."""
        keys = np.concatenate([self._kept, *self._new])
        keys.sort()
        ends = self._ends(keys)
        first = np.concatenate([[0], ends[:-1]])
        counts = np.minimum(ends - first, self._fetch)
        inside = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        self._kept = keys[inside]
        self._new, self._waiting = [], 0
        full = counts == self._fetch
        # Rows as good as the last are left out from here on; the ceiling counts them in.
        self.floor[: self._probes][full] = self._scores(self._kept[(np.cumsum(counts) - 1)[full]])

    def best(self, names: Rows | None) -> list[Best]:
        self._prune()
        rows, scores = self._kept & ((1 << self._row_bits) - 1), self._scores(self._kept)
        if names is not None:
            rows = names[rows]
        out, first = [], 0
        for end in self._ends(self._kept):
            own = scores[first:end].astype(np.float64)
            last = float(own[-1]) if len(own) >= self._fetch else -np.inf
            out.append(Best(own, rows[first:end], last))
            first = end
        return out

    def _ends(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each probe's part of the sorted ``keys`` ends."""
        bounds = np.arange(1, self._probes + 1) << self._probe_shift
        return np.searchsorted(keys, bounds).astype(np.int64)

    def _scores(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        width = self._probe_shift - self._row_bits
        scores: NDArray[np.int64] = self._top - ((keys >> self._row_bits) & ((1 << width) - 1))
        return scores


class _Product:
    """Multiplies blocks of codes with int8 ``factor`` (d, columns)."""

    def __init__(self, factor: StepArray) -> None:
        self._session, signed = _session()
        # Held for as long as its address is in use.
        self._factor: NDArray[np.int8] | NDArray[np.uint8] = factor
        if not signed:
            self._factor = (factor.astype(np.int16) + ZERO).astype(np.uint8)

    def __call__(self, block: CodeArray, out: NDArray[np.int32]) -> None:
        _multiply(self._session, block, self._factor, out)


@lru_cache(maxsize=1)
def _session() -> tuple[ort.InferenceSession, bool]:
    """The session for products, and whether probes go into it as int8 (or as uint8).

    Where a processor lacks VNNI, the faster kernel for uint8 x int8 adds pairs of products in 16
    bits and saturates (ONNX Runtime, "Quantize ONNX models": "U8S8 can suffer from saturation");
    the kernel for uint8 x uint8 widens first and does not. So it is tried, with the largest
    bytes there are.
    """
    signed = _open(signed=True)
    return (signed, True) if _is_exact(signed) else (_open(signed=False), False)


def _open(*, signed: bool) -> ort.InferenceSession:
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    inputs = [
        helper.make_tensor_value_info("codes", TensorProto.UINT8, [None, None]),
        helper.make_tensor_value_info("probes", kind, [None, None]),
    ]
    output = helper.make_tensor_value_info("products", TensorProto.INT32, [None, None])
    zeros = [
        helper.make_tensor("codes_zero", TensorProto.UINT8, [], [ZERO]),
        helper.make_tensor("probes_zero", kind, [], [0 if signed else ZERO]),
    ]
    node = helper.make_node(
        "MatMulInteger", ["codes", "probes", "codes_zero", "probes_zero"], ["products"]
    )
    graph = helper.make_graph([node], "products", inputs, [output], zeros)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    # One thread: the blocks are spread over threads by the caller.
    return open_session(model.SerializeToString(), RuntimeOptions(threads=1))


def _is_exact(session: ort.InferenceSession) -> bool:
    codes = np.full((33, 64), 255, np.uint8)
    codes[1::3, ::2] = 1
    codes[2::3] = 1
    factor = np.full((64, 16), 127, np.int8)
    factor[::3, 1::2] = -127
    products = np.empty((33, 16), np.int32)
    _multiply(session, codes, factor, products)
    expected = (codes.astype(np.int32) - ZERO) @ factor.astype(np.int32)
    return np.array_equal(products, expected)


def _multiply(
    session: ort.InferenceSession,
    block: CodeArray,
    factor: NDArray[np.int8] | NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None:
    # Bound by address: nothing is copied in or out.
    binding = session.io_binding()
    for name, array in (("codes", block), ("probes", factor)):
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    binding.bind_output("products", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)
