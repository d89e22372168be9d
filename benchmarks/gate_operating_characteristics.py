"""What each profile of the gate lets through in a season of 90 nights, on models whose true recall and F1 are known.

    OMP_NUM_THREADS=1 python benchmarks/gate_operating_characteristics.py [--quick] [--seasons 300]

A season is one holdout, a first champion and one challenger a night, each measured on the same images; what passes is
promoted. Holdouts have 100, 300 or 1,000 images with cancer (30 %) and patients with 1 to 8 images; see
`simulated_holdout.py`. Challengers truly equal the first champion, or all are better in recall by so much at the same
specificity, and hence in F1. Operating points are one fixed threshold, or each model's best F1 on tuning patients of
its own, as many as the holdout has.

A registration is false where the true recall or F1 is not above the champion's. Optimism is what the last champion
shows on the holdout minus what is true of it; what the first champion shows by luck is taken off, which is 0 on
average. The rules are worked out for whole seasons at once; in the first seasons of each kind some nights are also
given to `bc_tasks.gates.decide`, and any other answer stops the run.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import simulated_holdout as simulated
from scipy.special import ndtr
from simulated_holdout import Bools, Floats, Holdout, Ints, Truth

from bc_tasks import evidence, gates
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Case, CasePart, Look, MadeWith
from bc_tasks.resampling import draw_halves

NUM_NIGHTS = 90
SINGLE_NIGHTS = 5  # each compared with the first champion, for the power of one night
CHECKED_SEASONS = 2
FIRST_RESAMPLES = 1000  # if these alone hold too many without a gain, the others can't help
NIGHTS_AT_ONCE = 10
NO_FLOORS = {"min_recall": 0.0, "min_f1": 0.0, "min_specificity": 0.0}
PROFILES = ("strict", "default", "literal")


@dataclass(frozen=True)
class Season:
    """The first champion (row 0) and the challengers of a season: their scores (M, N), thresholds (M,) and truths."""

    holdout: Holdout
    scores: Floats
    thresholds: Floats
    truths: list[Truth]
    seed: int
    by_label: Floats
    calls: Floats
    seen: dict[str, Floats]
    halves: npt.NDArray[np.float32]


def make_season(num_positive: int, gain: float, is_fitted: bool, seed: int, num_resamples: int) -> Season:
    """Draw a holdout and its models."""
    generator = np.random.default_rng([seed, num_positive, round(gain * 1000), is_fitted])
    holdout = simulated.make_holdout(num_positive, generator)
    first = simulated.FIRST_RECALL
    distances = np.array([simulated.distance_for(first)] + [simulated.distance_for(first + gain)] * NUM_NIGHTS)
    images = simulated.make_noise(1, holdout, generator) * simulated.COMMON**0.5
    own = simulated.make_noise(len(distances), holdout, generator) * (1 - simulated.COMMON) ** 0.5
    scores = images + own + distances[:, None] * holdout.labels
    thresholds = np.full(len(distances), simulated.THRESHOLD)
    if is_fitted:
        thresholds = np.array([_fit(num_positive, distance, generator) for distance in distances])
    calls = simulated.sum_by_patient(holdout, scores >= thresholds[:, None]).transpose(1, 2, 0)
    by_label = simulated.count_by_patient(holdout).T
    halves = draw_halves(holdout.num_patients, num_resamples, seed).astype(np.float32)
    truths = [simulated.truth(*both) for both in zip(distances, thresholds, strict=True)]
    seen = _metrics(by_label.sum(axis=0), calls.sum(axis=1))
    return Season(holdout, scores, thresholds, truths, seed, by_label, calls, seen, halves)


def _fit(num_positive: int, distance: float, generator: np.random.Generator) -> float:
    """Return the threshold with the best F1 on new patients."""
    tuning = simulated.make_holdout(num_positive, generator)
    scores = simulated.make_noise(1, tuning, generator)[0] + distance * tuning.labels
    order = np.argsort(-scores)
    f1 = 2 * tuning.labels[order].cumsum() / (np.arange(1, len(order) + 1) + tuning.labels.sum())
    return float(scores[order[f1.argmax()]])


def _metrics(by_label: Floats, calls: Floats) -> dict[str, Floats]:
    """Return the metrics (M,) of models with so many true and false positives (M, 2)."""
    (positive, negative), (tp, fp) = by_label, calls.T
    return {"recall": tp / positive, "f1": 2 * tp / (tp + fp + positive), "specificity": 1 - fp / negative}


def passing(season: Season, policy: GateConfig, champion: int, nights: Ints) -> Iterator[int]:
    """Yield, in order, those of the nights whose challengers the gate registers while this model is champion."""
    hopeful = nights[_point_rules(season, policy, champion, nights)]
    if policy.evidence == "unproven":
        yield from hopeful.tolist()
        return
    error = policy.nightly_error if policy.evidence == "suggestive" else policy.total_error / policy.expected_looks
    for start in range(0, len(hopeful), NIGHTS_AT_ONCE):
        some = hopeful[start : start + NIGHTS_AT_ONCE]
        yield from some[_clears(season, champion, some, error)].tolist()


def _point_rules(season: Season, policy: GateConfig, champion: int, nights: Ints) -> Bools:
    """Say of which nights the rules on what is seen hold; see `bc_tasks.gate_rules`."""

    def gain(metric: str, other: int) -> Floats:
        return np.round(season.seen[metric][nights] - season.seen[metric][other], 9)

    kept = (gain("recall", 0) >= 0) & (gain("f1", 0) >= 0)
    kept &= gain("specificity", 0) >= -policy.max_specificity_loss_in_all
    recall, f1 = gain("recall", champion), gain("f1", champion)
    improved = (recall > 0) & (f1 > 0) & (recall >= policy.recall_margin) & (f1 >= policy.f1_margin)
    return kept & improved & (gain("specificity", champion) >= -policy.max_specificity_loss)


def _clears(season: Season, champion: int, nights: Ints, error: float) -> Bools:
    """Say of which nights the lower bounds of both gains are above 0."""
    num_resamples = len(season.halves)
    allowed = int(error * (num_resamples + 1))  # resamples without a gain must be fewer
    first = _differences(season, champion, nights, season.halves[:FIRST_RESAMPLES])
    clears = np.all([(first[metric] <= 0).sum(axis=0) < allowed for metric in gates.BOTH], axis=0)
    if clears.any():
        resampled = _differences(season, champion, nights[clears], season.halves)
        clears[clears] = [
            all(evidence.lower_bound(1.0, resampled[metric][:, column], error) > 0 for metric in gates.BOTH)
            for column in range(clears.sum())
        ]
    return clears


def _differences(
    season: Season, champion: int, nights: Ints, halves: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.float64]]:
    fixed = np.concatenate([season.by_label, season.calls[champion]], axis=1)  # (P, 4)
    ours = season.calls[nights].transpose(1, 0, 2)  # (P, M, 2)
    columns = np.concatenate([fixed, ours.reshape(len(fixed), -1)], axis=1)
    sums = (halves @ columns.astype(np.float32)).astype(np.float64)  # exact: counts are small
    fixed_sums = np.broadcast_to(sums[:, None, :4], (len(halves), len(nights), 4))
    our_sums = sums[:, 4:].reshape(len(halves), len(nights), 2)
    return evidence.differences_of(np.concatenate([fixed_sums[..., :2], our_sums, fixed_sums[..., 2:]], axis=-1))


@dataclass
class Tally:
    """What happened, a number a season."""

    registered: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    seasons_won: list[bool] = field(default_factory=list)
    nights_won: list[float] = field(default_factory=list)
    optimism: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in gates.BOTH})


def play(season: Season, policy: GateConfig, tally: Tally) -> None:
    """Let a season's nights pass, one by one, and note what was registered."""
    champion, registered, false = 0, 0, 0
    while (night := next(passing(season, policy, champion, np.arange(champion + 1, NUM_NIGHTS + 1)), None)) is not None:
        registered += 1
        false += not _is_better(season.truths[night], season.truths[champion])
        champion = night
    won = set(passing(season, policy, 0, np.arange(1, SINGLE_NIGHTS + 1)))
    tally.registered.append(registered)
    tally.false.append(false)
    tally.seasons_won.append(_is_better(season.truths[champion], season.truths[0]))
    tally.nights_won.append(len(won) / SINGLE_NIGHTS)
    for metric, values in tally.optimism.items():
        luck = [float(season.seen[metric][row]) - getattr(season.truths[row], metric) for row in (champion, 0)]
        values.append(luck[0] - luck[1])


def _is_better(ours: Truth, theirs: Truth) -> bool:
    return ours.recall > theirs.recall and ours.f1 > theirs.f1


def check(season: Season, policy: GateConfig, champion: int, nights: Ints) -> int:
    """Ask the gate itself about some nights, and return how many it was asked about."""
    passed = set(passing(season, policy, champion, nights))
    for night in nights.tolist():
        verdict = gates.decide(_case(season, night, champion), policy, _look(policy), MADE_WITH)
        if verdict.passed != (night in passed):
            raise AssertionError(f"night {night}, {policy.profile}: the gate says {verdict.summary!r}")
    return len(nights)


MADE_WITH = MadeWith(**dict.fromkeys(MadeWith.model_fields, "benchmark"))


def _case(season: Season, challenger: int, champion: int) -> Case:
    return Case(
        challenger_backbone="resnet50",
        challenger=_part(season, challenger),
        champion=_part(season, champion),
        champion_version="1",
        champion_problem=None,
        first_champion=_part(season, 0) if champion else None,
        other_versions=(),
        labels=tuple(season.holdout.labels.tolist()),
        patients=tuple(season.holdout.patients.tolist()),
        subgroups={},
        seed=season.seed,
    )


def _part(season: Season, row: int) -> CasePart:
    digests = ("weights_sha256", "preprocessing_sha256", "holdout_fingerprint", "images_sha256")
    return CasePart(
        name=str(row),
        **dict.fromkeys(digests, "a" * 64),
        operating_point=float(ndtr(season.thresholds[row])),
        probabilities=tuple(ndtr(season.scores[row]).tolist()),
    )


def _look(policy: GateConfig) -> Look:
    share = policy.total_error / policy.expected_looks
    return Look(
        number=1,
        holdout_fingerprint="a" * 64,
        run_uri="file:///benchmark",
        looked_at=datetime(2026, 11, 23, tzinfo=UTC),
        challenger_sha256="b" * 64,
        champion_sha256="c" * 64,
        champion_version="1",
        error=share,
        spent=share,
        total_error=policy.total_error,
        expected_looks=policy.expected_looks,
    )


def simulate(num_positive: int, gain: float, is_fitted: bool, num_seasons: int) -> tuple[dict[str, Tally], int]:
    """Play the same seasons under each profile, and return also how many nights were checked."""
    policies = {name: GateConfig.model_validate({"profile": name, **NO_FLOORS}) for name in PROFILES}
    tallies = {name: Tally() for name in PROFILES}
    num_checked = 0
    for number in range(num_seasons):
        season = make_season(num_positive, gain, is_fitted, number, policies["strict"].num_resamples)
        for name, policy in policies.items():
            play(season, policy, tallies[name])
            if number < CHECKED_SEASONS:
                champion = int(season.seen["f1"][: NUM_NIGHTS // 2].argmin())  # so that there is something to register
                num_checked += check(season, policy, 0, np.arange(1, NUM_NIGHTS + 1, 18))
                num_checked += check(season, policy, champion, np.arange(champion + 1, NUM_NIGHTS + 1, 9))
    return tallies, num_checked


def main() -> None:
    """Simulate everything and print a Markdown table."""
    options = _options()
    started, num_checked = time.perf_counter(), 0
    sizes = (100, 300) if options.quick else (100, 300, 1000)
    kinds = ((0.0, False), (0.05, False)) if options.quick else KINDS
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for gain, is_fitted in kinds:
        for num_positive in sizes:
            num_seasons = options.seasons * 2 if gain == 0 and not is_fitted else options.seasons
            tallies, checked = simulate(num_positive, gain, is_fitted, num_seasons)
            num_checked += checked
            for name, tally in tallies.items():
                print(f"| {' | '.join(_row(num_positive, gain, is_fitted, name, tally))} |", flush=True)
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s; the gate itself agreed on {num_checked:,} nights that it was asked about")


KINDS = ((0.0, False), (0.0, True), (0.02, False), (0.05, False), (0.10, False), (0.05, True))
COLUMNS = (
    *("true gain in recall", "operating point", "images with cancer", "profile", "registered a season"),
    *(
        "of these false",
        "optimism of recall",
        "optimism of F1",
        "better model seen in a night",
        "in a season",
        "seasons",
    ),
)


def _row(num_positive: int, gain: float, is_fitted: bool, name: str, tally: Tally) -> list[str]:
    return [
        f"{gain:+.2f}" if gain else "0",
        "fitted" if is_fitted else "fixed",
        f"{num_positive:,}",
        name,
        f"{np.mean(tally.registered):.2f}",
        _mean(tally.false),
        *(_mean(tally.optimism[metric], sign="+") for metric in gates.BOTH),
        f"{np.mean(tally.nights_won):.0%}" if gain else "",
        f"{np.mean(tally.seasons_won):.0%}" if gain else "",
        f"{len(tally.false):,}",
    ]


def _mean(values: list[int] | list[float], sign: str = "") -> str:
    error = max(np.std(values, ddof=1), 1 / len(values) ** 0.5 * (not sign)) / len(values) ** 0.5
    return f"{np.mean(values):{sign}.3f} ± {error:.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds: two sizes, few seasons")
    parser.add_argument("--seasons", type=int, default=None, help="of each kind; twice as many of equal models")
    options = parser.parse_args()
    options.seasons = options.seasons or (10 if options.quick else 300)
    return options


if __name__ == "__main__":
    main()
