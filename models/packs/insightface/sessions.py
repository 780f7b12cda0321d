"""What insightface's classes run: our sessions, gathered on a GPU, and loud where one fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import onnxruntime as ort

from models.batching import BatchedModel, BatchOptions
from models.runtime import loud


class _Session:
    """As much of ``onnxruntime.InferenceSession`` as insightface's classes ask for."""

    def __init__(self, session: ort.InferenceSession, rows: BatchedModel | None) -> None:
        self._session = session
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        if self._rows is not None:
            (values,) = inputs.values()
            return [self._rows.run(values)]
        with loud(self._session):
            return cast("list[Any]", self._session.run(list(outputs), dict(inputs)))


def watched(session: ort.InferenceSession) -> ort.InferenceSession:
    """A session whose failures on a GPU are told as InferenceFailed and GpuLost."""
    return cast("ort.InferenceSession", _Session(session, None))


def gathered(
    session: ort.InferenceSession, options: BatchOptions | None = None
) -> ort.InferenceSession:
    """As :func:`watched`; on a GPU the rows of all callers run together (``models.batching``).

    For a model of one input and one output that takes any number of rows.
    """
    rows = BatchedModel(
        session, session.get_inputs()[0].name, session.get_outputs()[0].name, options
    )
    return cast("ort.InferenceSession", _Session(session, rows))
