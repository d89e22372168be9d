"""How often lower bounds of a gain are wrong, by four methods, on pairs of models whose true gain is known.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap_coverage.py [--quick] [--pairs 40000]

Holdouts of 100, 300 and 1,000 images with cancer (30 %), patients with 1 to 8 images, scores of two models correlated
by 0.8 and of two images of a patient by 0.4. A bound is wrong where it lies above the true gain. `halves` is what
`bc_tasks/evidence.py` does; each method sees the same pairs. Pairs that are seen less than one standard error above the
truth are counted as right without a look, which spares most of the work.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simulated_holdout as simulated
from scipy.stats import norm

from bc_tasks.evidence import detectable_gain, differences_of
from bc_tasks.resampling import chunks, draw_halves, draw_patients

Floats = npt.NDArray[np.float64]
PAIRS_AT_ONCE = 100
CASES = ((0.05, 0.0, 2000, 0.5), (0.05, 0.05, 2000, 0.5), (0.05 / 90, 0.0, 10_000, 1.0))
"""Errors, true gains, resamples, and the share of the pairs that is enough."""
EPSILON = 1e-9  # of two differences that are the same but for rounding


@dataclass(frozen=True)
class Seen:
    """What a method may look at: differences (M,), resampled in two ways (B, M), and without each patient (P, M)."""

    observed: Floats
    halves: Floats
    drawn: Floats
    without_one: Floats


def _quantiles(resampled: Floats, error: Floats | float) -> Floats:
    """Return of each column the order statistic that `evidence.lower_bound` takes."""
    ranks = np.floor(np.broadcast_to(error, resampled.shape[1]) * (len(resampled) + 1)).astype(int)
    found = np.take_along_axis(np.sort(resampled, axis=0), np.maximum(ranks - 1, 0)[None], axis=0)[0]
    return np.where(ranks > 0, found, -1.0)


def _normal(seen: Seen, error: float) -> Floats:
    return seen.observed - norm.isf(error) * seen.drawn.std(axis=0, ddof=1)


def _bca(seen: Seen, error: float) -> Floats:
    """Return bias-corrected, accelerated bounds: Efron, J. Am. Stat. Assoc. 82 (1987) 171-185."""
    below, tied = seen.drawn < seen.observed - EPSILON, np.abs(seen.drawn - seen.observed) <= EPSILON
    num = len(seen.drawn)
    bias = norm.ppf(np.clip((below.sum(axis=0) + tied.sum(axis=0) / 2) / num, 1 / num, 1 - 1 / num))
    away = seen.without_one.mean(axis=0) - seen.without_one
    acceleration = (away**3).sum(axis=0) / np.maximum(6 * (away**2).sum(axis=0) ** 1.5, 1e-30)
    shifted = bias + norm.ppf(error)
    return _quantiles(seen.drawn, norm.cdf(bias + shifted / (1 - acceleration * shifted)))


METHODS: dict[str, Callable[[Seen, float], Floats]] = {
    "halves": lambda seen, error: _quantiles(seen.halves, error),
    "percentile": lambda seen, error: _quantiles(seen.drawn, error),
    "BCa": _bca,
    "normal": _normal,
}


@dataclass
class Counts:
    """How many bounds were wrong, by method and metric, of how many pairs."""

    wrong: dict[tuple[str, str], int]
    num_pairs: int = 0


def measure(num_positive: int, error: float, gain: float, num_pairs: int, num_resamples: int) -> Counts:
    """Count bounds above the true gain in recall and in F1, and where both are."""
    generator = np.random.default_rng([num_positive, round(1 / error), round(gain * 1000)])
    counts = Counts({(method, metric): 0 for method in METHODS for metric in ("recall", "f1", "both")})
    ours, theirs = _distances(gain)
    truths = [simulated.truth(distance, simulated.THRESHOLD) for distance in (ours, theirs)]
    true_gains = {metric: getattr(truths[0], metric) - getattr(truths[1], metric) for metric in ("recall", "f1")}
    while counts.num_pairs < num_pairs:
        sums = _pairs(num_positive, ours, theirs, generator)
        wrong: dict[str, npt.NDArray[np.bool_]] = {}
        seeds = generator.integers(2**31, size=2)
        for metric, true_gain in true_gains.items():
            for method, found in _wrong(sums, metric, true_gain, error, num_resamples, seeds).items():
                counts.wrong[method, metric] += int(found.sum())
                wrong[method] = wrong.get(method, True) & found
        for method, found in wrong.items():
            counts.wrong[method, "both"] += int(found.sum())
        counts.num_pairs += PAIRS_AT_ONCE
    return counts


def _distances(gain: float) -> tuple[float, float]:
    first = simulated.FIRST_RECALL
    return simulated.distance_for(first + gain), simulated.distance_for(first)


def _pairs(num_positive: int, ours: float, theirs: float, generator: np.random.Generator) -> Floats:
    """Return the counts (P, M, 6) of many pairs on holdouts with the same labels and patients, but other images."""
    holdout = simulated.make_holdout(num_positive, generator)
    both = []
    images = simulated.make_noise(PAIRS_AT_ONCE, holdout, generator) * simulated.COMMON**0.5
    for distance in (ours, theirs):
        own = simulated.make_noise(PAIRS_AT_ONCE, holdout, generator) * (1 - simulated.COMMON) ** 0.5
        called = images + own + distance * holdout.labels >= simulated.THRESHOLD
        both += list(simulated.sum_by_patient(holdout, called))
    by_label = [np.broadcast_to(count, both[0].shape) for count in simulated.count_by_patient(holdout)]
    return np.stack([*by_label, *both], axis=-1).transpose(1, 0, 2)


def _wrong(
    sums: Floats, metric: str, true_gain: float, error: float, num_resamples: int, seeds: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.bool_]]:
    total = sums.sum(axis=0)
    observed, without_one = differences_of(total)[metric], differences_of(total - sums)[metric]
    spread = np.sqrt((len(sums) - 1) * without_one.var(axis=0))  # by the jackknife
    near = np.flatnonzero(observed - true_gain > spread * (1 if error < 0.01 else 0.5))
    result = {method: np.zeros(len(observed), bool) for method in METHODS}
    if len(near):
        num_patients, kept = len(sums), sums[:, near]
        halves = _resample(draw_halves(num_patients, num_resamples, int(seeds[0])), kept, metric)
        drawn = _resample(draw_patients(num_patients, num_resamples, int(seeds[1])), kept, metric)
        seen = Seen(observed[near], halves, drawn, without_one[:, near])
        for method, bound in METHODS.items():
            result[method][near] = bound(seen, error) > true_gain + EPSILON
    return result


def _resample(draws: npt.NDArray[np.integer], sums: Floats, metric: str) -> Floats:
    flat = sums.reshape(len(sums), -1).astype(np.float32)  # exact: counts are small
    parts = []
    for rows in chunks(len(draws), max(flat.shape)):
        totals = (draws[rows].astype(np.float32) @ flat).astype(np.float64)
        parts.append(differences_of(totals.reshape(-1, *sums.shape[1:]))[metric])
    return np.concatenate(parts)


def power(num_positive: int, error: float, num_pairs: int, num_resamples: int) -> tuple[float, float]:
    """Return the gain in recall that `detectable_gain` names here, and how often its bound is then above 0."""
    generator = np.random.default_rng(num_positive)
    ours, theirs = _distances(0.05)
    typical = _spread(_pairs(num_positive, ours, theirs, generator)).mean()
    gain = detectable_gain(float(typical), error)
    found = 0
    for _ in range(num_pairs // PAIRS_AT_ONCE):
        sums = _pairs(num_positive, *_distances(gain), generator)
        halves = _resample(draw_halves(len(sums), num_resamples, int(generator.integers(2**31))), sums, "recall")
        found += int((_quantiles(halves, error) > EPSILON).sum())
    return gain, found / num_pairs


def _spread(sums: Floats) -> Floats:
    without_one = differences_of(sums.sum(axis=0) - sums)["recall"]
    return np.sqrt((len(sums) - 1) * without_one.var(axis=0))


def main() -> None:
    """Measure everything and print two Markdown tables."""
    options = _options()
    started = time.perf_counter()
    sizes = (100, 300) if options.quick else (100, 300, 1000)
    print(f"| images with cancer | error | true gain | method | {' | '.join(('recall', 'F1', 'both'))} | pairs |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for error, gain, num_resamples, share in CASES:
        for num_positive in sizes:
            num_pairs = round(options.pairs * share * (0.5 if num_positive == 1000 else 1.0))
            counts = measure(num_positive, error, gain, num_pairs, num_resamples)
            for method in METHODS:
                shares = [_relative(counts, method, metric, error) for metric in ("recall", "f1", "both")]
                print(
                    f"| {num_positive:,} | {error:.5f} | {gain:.2f} | {method} | {' | '.join(shares)} "
                    f"| {counts.num_pairs:,} |",
                    flush=True,
                )
    print("\n| images with cancer | error | gain that `detectable_gain` names | seen |\n| --- | --- | --- | --- |")
    for error, num_resamples in ((0.05, 2000), (0.05 / 90, 10_000)):
        for num_positive in sizes:
            gain, share = power(num_positive, error, max(PAIRS_AT_ONCE, options.pairs // 40), num_resamples)
            print(f"| {num_positive:,} | {error:.5f} | {gain:.3f} | {share:.0%} |", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


def _relative(counts: Counts, method: str, metric: str, error: float) -> str:
    share = counts.wrong[method, metric] / counts.num_pairs
    noise = np.sqrt(max(share, 1 / counts.num_pairs) / counts.num_pairs)
    return f"{share / error:.2f} ± {noise / error:.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds: two sizes, few pairs")
    parser.add_argument("--pairs", type=int, default=None, help="at most, of models")
    options = parser.parse_args()
    options.pairs = options.pairs or (2000 if options.quick else 40_000)
    return options


if __name__ == "__main__":
    main()
