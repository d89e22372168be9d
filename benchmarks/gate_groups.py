"""How often the rule on groups rejects: by chance, where no group is worse, and rightly, where one is.

    OMP_NUM_THREADS=1 python benchmarks/gate_groups.py [--pairs 200]

Each pair is a champion and a challenger on one simulated holdout (see `simulated_holdout.py`), whose patients come from
several sites of one size. The challenger's recall is truly higher everywhere, or truly lower by 0.2 at one site. Beside
the rule stands the obvious alternative: any fall beyond the margin rejects.
"""

import argparse
from datetime import UTC, datetime

import numpy as np
import simulated_holdout as simulated

from bc_tasks import gates
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Case, CasePart, Look, MadeWith, Verdict

POLICY = GateConfig(profile="literal", subgroups=("site_id",), num_resamples=2000)
MADE_WITH = MadeWith(code_version="benchmark", platform="", python="", numpy="")
LOOK = Look(
    number=1,
    holdout_fingerprint="a" * 64,
    run_uri="",
    looked_at=datetime(2026, 11, 23, tzinfo=UTC),
    challenger_sha256="b" * 64,
    champion_sha256="c" * 64,
    champion_version="1",
    error=0.05 / 90,
    spent=0.05 / 90,
    total_error=0.05,
    expected_looks=90,
)
KINDS = ((0.0, 0.0, "equal"), (0.05, -0.05, "+0.05"), (0.05, 0.2, "+0.05, at one site -0.20"))
"""The gain at all sites but one, the loss at that one, and what that is called."""


def decide(num_positive: int, num_sites: int, gain: float, loss_at_one: float, seed: int) -> Verdict:
    """Let the gate decide on one pair."""
    generator = np.random.default_rng([seed, num_positive, num_sites, round(gain * 1000)])
    holdout = simulated.make_holdout(num_positive, generator)
    site = generator.integers(num_sites, size=holdout.num_patients)[holdout.patients]
    common, own, theirs = simulated.make_noise(3, holdout, generator)
    recall = np.where(site == 0, simulated.FIRST_RECALL - loss_at_one, simulated.FIRST_RECALL + gain)
    distances = np.vectorize(simulated.distance_for)(recall)
    share = simulated.COMMON**0.5, (1 - simulated.COMMON) ** 0.5
    ours = holdout.labels * distances + share[0] * common + share[1] * own
    champion = holdout.labels * simulated.distance_for(simulated.FIRST_RECALL) + share[0] * common + share[1] * theirs
    case = Case(
        challenger_backbone="resnet50",
        challenger=_part("challenger", ours),
        champion=_part("champion", champion),
        champion_version="1",
        champion_problem=None,
        first_champion=None,
        other_versions=(),
        labels=tuple(holdout.labels.tolist()),
        patients=tuple(holdout.patients.tolist()),
        subgroups={"site_id": tuple(map(str, site))},
        seed=17,
    )
    return gates.decide(case, POLICY, LOOK, MADE_WITH)


def _part(name: str, scores: simulated.Floats) -> CasePart:
    return CasePart(
        name=name,
        weights_sha256="b" * 64,
        preprocessing_sha256="b" * 64,
        holdout_fingerprint="a" * 64,
        images_sha256="b" * 64,
        operating_point=simulated.THRESHOLD,
        probabilities=tuple(scores.tolist()),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    num_pairs = parser.parse_args().pairs
    print("| images with cancer | sites | the challenger's recall | any fall beyond the margin | and beyond chance |")
    print("| --- | --- | --- | --- | --- |")
    for num_positive in (300, 1000):
        for num_sites in (5, 10):
            for gain, loss, said in KINDS:
                verdicts = [decide(num_positive, num_sites, gain, loss, seed) for seed in range(num_pairs)]
                rules = [
                    next(rule for rule in verdict.rules if rule.rule == "groups_by_site_id") for verdict in verdicts
                ]
                rejected = np.mean([not rule.passed for rule in rules])
                fell = np.mean([not rule.passed or "it may be chance" in rule.sentence for rule in rules])
                print(f"| {num_positive:,} | {num_sites} | {said} | {fell:.0%} | {rejected:.0%} |", flush=True)


if __name__ == "__main__":
    main()
