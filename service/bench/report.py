"""The figures of one run. How they are shown is in ``service.bench.tables``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Throughput:
    """Detection and embedding of one set of pictures.

    ``doublings``: how often each picture is doubled in size first (``None``: as its size asks).
    ``speedup``: against dlib on the same set.
    """

    engine: str
    pictures: str
    doublings: int | None
    threads: int
    images_per_s: float
    faces: int
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Median milliseconds of one stage, for ``unit``."""

    name: str
    unit: str
    threads: int
    ms: float


@dataclass(frozen=True, slots=True)
class Search:
    """Milliseconds a probe for the ``k`` best of ``vectors``; ``skipped`` says why there are none.

    ``probes`` are asked for at once. ``against_flat``: ``p50_ms`` as a share of the fastest time
    of FAISS's flat float32 index in the same run. ``gb_per_s``: bytes that have to be read for one
    answer, in 10^9 a second; ``of_memory``: that as a share of the plain reading of the same codes
    by as many threads. ``cpu_ms``: the median of the processor time, of all threads together.
    """

    engine: str
    vectors: int
    dimension: int
    threads: int
    probes: int
    k: int
    p50_ms: float | None
    p99_ms: float | None
    against_flat: float | None = None
    gb_per_s: float | None = None
    of_memory: float | None = None
    cpu_ms: float | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Burst:
    """Probes a second, ``probes`` one after the other and all at once."""

    vectors: int
    dimension: int
    threads: int
    probes: int
    single_per_s: float
    at_once_per_s: float

    @property
    def gain(self) -> float:
        """How many times the rate of single ones."""
        return self.at_once_per_s / self.single_per_s


@dataclass(frozen=True, slots=True)
class Filtered:
    """Median milliseconds under a filter, as a share of those without one (``of_all``).

    ``kept``: the share of the rows that pass.
    """

    vectors: int
    dimension: int
    threads: int
    filter: str
    kept: float
    p50_ms: float
    of_all: float


@dataclass(frozen=True, slots=True)
class Exactness:
    """The share of the ``k`` best of float64 brute force that was found, over ``probes`` probes."""

    vectors: int
    dimension: int
    filter: str
    probes: int
    k: int
    recall: float


@dataclass(frozen=True, slots=True)
class Change:
    """From the beginning of a change to the answer of a search that shows it, milliseconds.

    ``where``: the index alone, or the gallery with its catalog. ``made_ms``: the change itself,
    the median; ``seen_ms``: with the search, the median; ``worst_ms``: the longest of ``count``.
    """

    vectors: int
    dimension: int
    where: str
    change: str
    count: int
    made_ms: float
    seen_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Milliseconds from nothing to an open gallery, all codes checked, and the searches then.

    ``from_disk``: the files were not in memory any more. Vectors are checked when first read:
    ``first_ms`` is the first search, ``early_ms`` the median of the ``early`` after it.
    """

    vectors: int
    dimension: int
    from_disk: bool
    open_ms: float
    first_ms: float
    early: int
    early_ms: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes a vector: ``scanned`` codes, ``mapped`` with ids and columns, ``disk`` with the
    vectors; ``resident`` is what this process took more after opening and ``searches`` searches
    (``None`` where the system does not say).

    ``write_s``: seconds in which the segments were made and written.
    """

    vectors: int
    dimension: int
    segments: int
    write_s: float
    scanned: float
    mapped: float
    disk: float
    searches: int
    resident: float | None


@dataclass(slots=True)
class BenchReport:
    """All figures of one run. Memory figures are high-water marks of the process, in MiB."""

    machine: dict[str, Any]
    throughput: list[Throughput] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    search: list[Search] = field(default_factory=list)
    exactness: list[Exactness] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)
    filters: list[Filtered] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)
    neighbours: int = 50
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether every answer that was checked is that of brute force."""
        return all(line.recall == 1.0 for line in self.exactness)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "exact": self.exact}
