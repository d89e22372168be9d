"""The rule on groups: no site, machine, view or density may pay for the gain of the others.

A group falls by more than the policy's margin and by more than chance: of two equal models one or the other
has such a margin in some small group on most nights.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bc_tasks import evidence
from bc_tasks.evidence import Paired
from bc_tasks.gate_config import Subgroup
from bc_tasks.gate_scene import Finding, Scene, called, gain
from bc_tasks.records import Case

NUM_NAMED = 10


@dataclass(frozen=True)
class Change:
    """What a metric of one group gained (or, below 0, lost), and whether that is a loss beyond chance."""

    name: str
    value: float
    is_loss: bool


def by_column(column: Subgroup, scene: Scene) -> Finding:
    """Compare recall and specificity in each group of a column; one with too few images is named, and not judged."""
    margin, fewest = scene.policy.max_subgroup_loss, scene.policy.min_subgroup_images
    changes: list[Change] = []
    too_few: list[str] = []
    for group, images in _groups(scene.case, column).items():
        for metric, label in (("recall", 1), ("specificity", 0)):
            num_images = int((np.asarray(scene.case.labels)[images] == label).sum())
            if num_images < fewest:
                too_few.append(f"{metric} of {column} {group} ({num_images} images)")
            else:
                changes.append(_change(scene, images, metric, f"{metric} of {column} {group}"))
    large = [change for change in changes if not gain(0, change.value) <= margin]
    fallen = [change for change in large if change.is_loss]
    worst = min(changes, key=lambda change: change.value, default=None)
    return Finding(
        not fallen,
        f"{worst.value:+.4f} in the {worst.name}" if worst else "too few",
        f">= {-margin:+.4f}, or within chance, in each group of {fewest} images or more",
        _on_groups(column, large, worst, too_few, margin),
        tuple(too_few),
    )


def _change(scene: Scene, images: npt.NDArray[np.bool_], metric: str, name: str) -> Change:
    """Compare both models on some of the images (N,); beyond chance is what equal models lose seldom in a night."""
    case = scene.case
    labels, champion = np.asarray(case.labels), case.champion or case.challenger
    _, patients = np.unique(np.asarray(case.patients)[images], return_inverse=True)
    ours, theirs = called(case.challenger)[images], called(champion)[images]
    label = 1 if metric == "recall" else 0
    right = (ours == label).astype(int) - (theirs == label)
    value = float(right[labels[images] == label].mean())
    swapped = Paired(labels=labels[images], patients=patients, ours=theirs, theirs=ours)
    lost = evidence.differences(swapped, num_resamples=scene.policy.num_resamples, seed=case.seed)[metric]
    return Change(name, value, evidence.lower_bound(-value, lost, scene.policy.nightly_error) > 0)


def _on_groups(column: str, large: list[Change], worst: Change | None, too_few: list[str], margin: float) -> str:
    fallen, by_chance = ([change for change in large if change.is_loss is lost] for lost in (True, False))
    if fallen:
        said = f"By {column}, more than {margin:.3f} was lost in {_named(fallen)}"
    elif worst:
        said = f"By {column}, no group lost more than {margin:.3f} and than chance; the worst is {_named([worst])}"
    else:
        said = f"By {column}, nothing can be said"
    chance = f"; it may be chance in {_named(by_chance)}" if by_chance else ""
    few = f"; too few images to say for {', '.join(too_few[:NUM_NAMED])}" if too_few else ""
    more = f" and {len(too_few) - NUM_NAMED} more" if len(too_few) > NUM_NAMED else ""
    return f"{said}{chance}{few}{more}."


def _named(changes: list[Change]) -> str:
    return ", ".join(f"the {change.name} ({change.value:+.3f})" for change in changes[:NUM_NAMED])


def _groups(case: Case, column: Subgroup) -> dict[str, npt.NDArray[np.bool_]]:
    values = np.asarray([value or "unknown" for value in case.subgroups[column]])
    return {str(value): values == value for value in np.unique(values)}
