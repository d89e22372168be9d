"""Resampling all at once, against the obvious loop that copies images resample by resample, timed in the same run.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py [--images 1000] [--resamples 10000]

`differences` bounds a challenger's gain; `intervals` gives all metrics of one model with their intervals. The loops do
a share of the resamples and are scaled up.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from bc_tasks import metrics, resampling
from bc_tasks.evidence import Paired, differences

SEED = 1
LOOP_SHARE = 50  # one resample in so many


def main() -> None:
    """Time both ways of both, and print a Markdown table."""
    options = _options()
    labels, scores, others, patients = _data(options.images)
    paired = Paired(labels, patients, scores >= 0.5, others >= 0.5)
    num = options.resamples
    num_in_loop = max(1, num // LOOP_SHARE)
    draws: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "differences": (
            partial(differences, paired, num_resamples=num, seed=SEED),
            partial(loop_differences, paired, num_in_loop),
        ),
        "intervals": (
            partial(metrics.intervals, labels, scores, patients, 0.5, num_resamples=num, confidence=0.95, seed=SEED),
            partial(loop_intervals, labels, scores, patients, num_in_loop),
        ),
    }
    print(f"{options.images:,} images, {patients[-1] + 1:,} patients, {num:,} resamples\n")
    print("| what | all at once | a loop over copies | ratio |\n| --- | --- | --- | --- |")
    for name, (at_once, loop) in draws.items():
        resampling.draw_halves.cache_clear()
        resampling.draw_patients.cache_clear()
        ours, theirs = _seconds(at_once), _seconds(loop) * num / num_in_loop
        print(f"| `{name}` | {ours:.2f} s | {theirs:.0f} s | {theirs / ours:.0f} |")


def loop_differences(paired: Paired, num_resamples: int) -> list[npt.NDArray[np.float64]]:
    """Resample the obvious way: the images of drawn patients, one resample after the other."""
    results = []
    for images in _copies(paired.patients, num_resamples):
        cancer, ours, theirs = paired.labels[images] == 1, paired.ours[images], paired.theirs[images]
        results.append(_of_calls(cancer, ours) - _of_calls(cancer, theirs))
    return results


def _of_calls(cancer: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    found = (cancer & called).sum()
    return np.array([found / cancer.sum(), 2 * found / (called.sum() + cancer.sum()), (~called)[~cancer].mean()])


def loop_intervals(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], patients: npt.NDArray[np.int64], num_resamples: int
) -> list[dict[str, float]]:
    """Resample the obvious way, all metrics of one resample after the other."""
    return [metrics.summarise(labels[images], scores[images], 0.5) for images in _copies(patients, num_resamples)]


def _copies(patients: npt.NDArray[np.int64], num_resamples: int) -> list[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(SEED)
    of_patient = [np.flatnonzero(patients == patient) for patient in range(patients[-1] + 1)]
    return [
        np.concatenate([of_patient[patient] for patient in generator.integers(len(of_patient), size=len(of_patient))])
        for _ in range(num_resamples)
    ]


def _data(num_images: int) -> tuple[npt.NDArray[np.int64], ...]:
    generator = np.random.default_rng(SEED)
    labels = (generator.random(num_images) < 0.3).astype(np.int64)
    scores, others = (np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0, 1) for _ in range(2))
    return labels, scores, others, np.arange(num_images) // 3


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=10_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
