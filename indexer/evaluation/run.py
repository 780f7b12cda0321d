"""``evaluate``: a face pack on a folder of labelled photos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.evaluation.binomial import widened_ratio
from indexer.evaluation.cache import FaceCache
from indexer.evaluation.degrade import DEGRADATIONS, Degradation
from indexer.evaluation.groups import measure_groups
from indexer.evaluation.intervals import (
    draw_weights,
    fnir_intervals,
    percentile_interval,
    rank_intervals,
    share_interval,
    verification_intervals,
)
from indexer.evaluation.labels import read_labels
from indexer.evaluation.pairs import score_pairs, verify
from indexer.evaluation.photos import (
    EvaluationImpossible,
    FaceAnalyser,
    LabelledFaces,
    Progress,
    analyse_photos,
    centre_face,
    find_photos,
    load_batches,
)
from indexer.evaluation.protocol import (
    BoolArray,
    Identification,
    IntArray,
    Interval,
    identify,
    rank_probes,
)
from indexer.evaluation.report import (
    DegradedResult,
    EvaluationReport,
    QualityBin,
    QualityStudy,
)
from models.decode import DecodeLimits
from models.types import Face

_QUALITY_BINS = 10
_PROBES_PER_PERSON = 3
_DEGRADED_RANKS = (1, 5, 10, 50)


def evaluate(
    analyser: FaceAnalyser,
    directory: Path,
    *,
    degrade: Sequence[str] = (),
    degrade_probes: int | None = 300,
    limits: DecodeLimits | None = None,
    replicates: int = 500,
    seed: int = 0,
    cache_dir: Path | None = None,
    labels_file: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Measure ``analyser`` on a folder with one folder of photos per identity.

    ``degrade`` names entries of ``degrade.DEGRADATIONS``; each is applied to the mated probes of
    people drawn by ``seed`` until there are at least ``degrade_probes``, at most three a person
    (all probes with ``None``).
    ``replicates`` of the bootstrap; ``cache_dir`` keeps faces by contract and SHA-256;
    ``labels_file`` says who belongs to which group (``labels``).

    Raises ``EvaluationImpossible`` for a folder without photos or an unknown degradation, and
    ``LabelsInvalid``, both before any photo is looked at.
    """
    unknown = sorted(set(degrade) - set(DEGRADATIONS))
    if unknown:
        raise EvaluationImpossible(
            f"No degradation is called {', '.join(unknown)}.",
            remedy=f"Choose among {', '.join(DEGRADATIONS)}.",
        )
    limits = limits or DecodeLimits()
    started = time.perf_counter()
    stages: dict[str, float] = {}

    def lap(stage: str) -> None:
        stages[stage] = time.perf_counter() - started - sum(stages.values())

    cache = None if cache_dir is None else FaceCache(cache_dir, analyser.contract_id)
    photos = find_photos(directory)
    labels = None if labels_file is None else read_labels(labels_file, photos)
    faces = analyse_photos(analyser, photos, limits=limits, cache=cache, progress=progress)
    lap("photos")
    sample = faces.sample
    pairs = score_pairs(sample)
    verification, identification = verify(pairs), identify(sample)
    lap("protocol")
    spans = verification_intervals(pairs, replicates=replicates, seed=seed)
    ranks = rank_intervals(identification, replicates=replicates, seed=seed)
    fnir = fnir_intervals(identification, replicates=replicates, seed=seed)
    failures = share_interval(~sample.found, sample.identities, replicates=replicates, seed=seed)
    lap("intervals")
    groups = None
    if labels is not None:
        groups = measure_groups(
            sample, pairs, verification, identification, labels, replicates=replicates, seed=seed
        )
        lap("groups")
    degraded = _degraded(
        analyser,
        faces,
        identification,
        [DEGRADATIONS[name] for name in degrade],
        limits=limits,
        cap=degrade_probes,
        replicates=replicates,
        seed=seed,
        progress=progress,
    )
    if degrade:
        lap("degraded")
    return EvaluationReport(
        faces=faces,
        pairs=pairs,
        verification=verification,
        identification=identification,
        tar_intervals=spans.tar,
        fmr_intervals=spans.fmr,
        eer_interval=spans.eer,
        failure_interval=failures,
        rank_intervals=ranks,
        fnir_intervals=fnir,
        degraded=degraded,
        quality=_quality_study(faces, identification, degraded),
        groups=groups,
        seconds=time.perf_counter() - started,
        seconds_by_stage=stages,
    )


def sample_probes(identification: Identification, cap: int | None, seed: int) -> IntArray:
    """Places in the list of mated probes, ascending; with a ``cap``, of people drawn at random.

    People are drawn without replacement until there are at least ``cap`` probes. Each gives their
    first three at most, because many people say more than many photos of a few.
    """
    people, compact, counts = np.unique(
        identification.mated_identity, return_inverse=True, return_counts=True
    )
    if cap is None or cap >= len(compact):
        return np.arange(len(compact), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(people))
    given = np.minimum(counts, _PROBES_PER_PERSON)
    enough = int(np.searchsorted(np.cumsum(given[order]), cap)) + 1
    place = np.arange(len(compact)) - (np.cumsum(counts) - counts)[compact]
    chosen = np.isin(compact, order[:enough]) & (place < _PROBES_PER_PERSON)
    return np.flatnonzero(chosen).astype(np.int64)


def _degraded(
    analyser: FaceAnalyser,
    faces: LabelledFaces,
    identification: Identification,
    degradations: Sequence[Degradation],
    *,
    limits: DecodeLimits,
    cap: int | None,
    replicates: int,
    seed: int,
    progress: Progress | None,
) -> tuple[DegradedResult, ...]:
    chosen = sample_probes(identification, cap, seed)
    if not degradations or not len(chosen):
        return ()
    rows = identification.split.mated[chosen]
    changed: dict[str, list[Face | None]] = {d.name: [None] * len(rows) for d in degradations}
    done = 0
    for batch in load_batches([faces.photos.photos[row] for row in rows], limits):
        usable = []
        for item in batch:
            clean = faces.faces[rows[item.row]]
            if clean is not None and item.pixels is not None:
                usable.append((item.row, item.pixels, clean))
        for degradation in degradations:
            images = [degradation.apply(pixels, clean) for _, pixels, clean in usable]
            found = analyser.analyse(images) if images else []
            for (place, _, _), image, candidates in zip(usable, images, found, strict=True):
                height, width = image.shape[:2]
                changed[degradation.name][place] = centre_face(candidates, width, height)
        done += len(batch)
        if progress is not None:
            progress("degraded probes", done, len(rows))
    clean_ranks = identification.mated.rank[chosen]
    return tuple(
        _degraded_result(
            d, changed[d.name], faces, identification, rows, clean_ranks, replicates, seed
        )
        for d in degradations
    )


def _degraded_result(
    degradation: Degradation,
    changed: list[Face | None],
    faces: LabelledFaces,
    identification: Identification,
    rows: IntArray,
    clean_ranks: IntArray,
    replicates: int,
    seed: int,
) -> DegradedResult:
    sample = faces.sample
    gallery = identification.split.gallery
    vectors = np.zeros((len(rows), faces.dimension), dtype=np.float32)
    quality = np.full(len(rows), np.nan)
    for place, face in enumerate(changed):
        if face is not None:
            vectors[place], quality[place] = face.embedding.vector, face.quality.score
    found = np.isfinite(quality)
    identities = sample.identities[rows]
    ranks = rank_probes(
        vectors,
        found,
        identities,
        sample.vectors[gallery],
        sample.found[gallery],
        sample.identities[gallery],
    )
    # Both shares come from the same draw of people, so their ratio is a paired one.
    _, compact = np.unique(identities, return_inverse=True)
    weights = draw_weights(int(compact.max()) + 1, replicates, seed)
    hits = np.bincount(compact, weights=(ranks.rank == 1).astype(np.float64))
    clean_hits = np.bincount(compact, weights=(clean_ranks == 1).astype(np.float64))
    clean = int((clean_ranks == 1).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (weights @ hits) / (weights @ clean_hits)

    def span(events: BoolArray) -> Interval | None:
        return share_interval(events, identities, replicates=replicates, seed=seed)

    return DegradedResult(
        name=degradation.name,
        title=degradation.title,
        probes=len(rows),
        people=len(hits),
        failure_to_enroll=float((~found).mean()),
        rank_k={k: float((ranks.rank <= k).mean()) for k in _DEGRADED_RANKS},
        share_of_clean=float((ranks.rank == 1).sum() / clean) if clean else None,
        share_interval=widened_ratio(
            percentile_interval(ratios), clean_ranks == 1, ranks.rank == 1, identities
        ),
        failure_interval=span(~found),
        rank_intervals={k: span(ranks.rank <= k) for k in _DEGRADED_RANKS},
        rank=ranks.rank,
        mate_score=ranks.mate_score,
        quality=quality,
    )


def _quality_study(
    faces: LabelledFaces, identification: Identification, degraded: Sequence[DegradedResult]
) -> QualityStudy:
    """Clean mated probes and all degraded ones together."""
    clean = [faces.faces[row] for row in identification.split.mated]
    quality = np.array([np.nan if f is None else f.quality.score for f in clean], dtype=np.float64)
    quality = np.concatenate([quality, *(d.quality for d in degraded)])
    rank = np.concatenate([identification.mated.rank, *(d.rank for d in degraded)])
    known = np.isfinite(quality)
    return study_quality(quality[known], rank[known] > 1)


def study_quality(
    quality: np.ndarray[tuple[int], np.dtype[np.float64]],
    missed: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> QualityStudy:
    """Misses by tenth of quality, and the area under the ROC of quality against misses.

    The area is the Mann-Whitney statistic with ties counted half.
    """
    low, high = quality[missed], np.sort(quality[~missed])
    area = None
    if len(low) and len(high):
        above = len(high) - np.searchsorted(high, low, side="right")
        ties = np.searchsorted(high, low, side="right") - np.searchsorted(high, low, side="left")
        area = float((above + ties / 2).sum() / (len(low) * len(high)))
    bins = []
    if len(quality):
        # Equal qualities stay together, so there may be fewer than ten parts of uneven size.
        cuts = np.unique(np.quantile(quality, np.linspace(0, 1, _QUALITY_BINS + 1)[1:-1]))
        part_of = np.searchsorted(cuts, quality, side="left")
        for part in np.unique(part_of):
            inside = part_of == part
            values = quality[inside]
            bins.append(
                QualityBin(
                    float(values.min()),
                    float(values.max()),
                    len(values),
                    int(missed[inside].sum()),
                )
            )
    return QualityStudy(len(quality), int(missed.sum()), area, tuple(bins))
