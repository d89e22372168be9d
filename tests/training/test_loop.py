from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_images import make_images

from bc_tasks import metrics
from bc_tasks.config import AugmentationConfig, TrainingConfig
from bc_tasks.errors import ConfigError, Interrupted, TrainingDiverged
from bc_tasks.storage import open_storage
from bc_tasks.training import checkpoints, loop, scoring, weights
from bc_tasks.training.backbones import BACKBONES, build
from bc_tasks.training.checkpoints import Checkpoint, EpochResult
from bc_tasks.training.data import LabelledImages
from bc_tasks.training.distributed import ALONE, Workers
from bc_tasks.training.inputs import InputFormat
from bc_tasks.training.loop import Trained, Watcher

CPU = torch.device("cpu")
HALVES = (0.5, 0.5, 0.5)
TAKEN = InputFormat(32, HALVES, HALVES)
LITE0 = BACKBONES["efficientnet_lite0"]
every_backbone = pytest.mark.parametrize("name", BACKBONES)


class Seen:
    """Remembers what a training tells."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []
        self.epochs: list[EpochResult] = []
        self.checkpoints: list[Checkpoint] = []

    def watcher(self) -> Watcher:
        return Watcher(lambda *step: self.steps.append(step), self.epochs.append, self.checkpoints.append)


def config(**fields: object) -> TrainingConfig:
    quick = {"image_size_px": 32, "batch_size": 4, "epochs": 3, "trainable_stages": 1, "early_stop_epochs": 100}
    return TrainingConfig.model_validate({**quick, **fields})


def fine_tune(
    settings: TrainingConfig,
    *,
    name: str = "efficientnet_lite0",
    model: nn.Module | None = None,
    training: LabelledImages | None = None,
    taken: InputFormat = TAKEN,
    resume: Checkpoint | None = None,
    seen: Seen | None = None,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
    workers: Workers = ALONE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Trained:
    watcher = (seen or Seen()).watcher()
    return loop.train(
        model or build(BACKBONES[name].timm_name, settings.seed),
        BACKBONES[name],
        taken,
        settings,
        training=training or make_images(12, seed=1),
        tuning=make_images(8, seed=2),
        device=CPU,
        resume=resume,
        watcher=replace(watcher, on_checkpoint=on_checkpoint) if on_checkpoint else watcher,
        workers=workers,
        is_stopping=is_stopping,
    )


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_it_learns_to_see(tmp_path: Path) -> None:
    settings = TrainingConfig(image_size_px=64, batch_size=32, epochs=4, trainable_stages=2)
    model = build(LITE0.timm_name)
    weights.initialise(model, LITE0, "package", download=open_storage().download, cache=tmp_path)
    taken = InputFormat(64, HALVES, HALVES)
    trained = fine_tune(settings, model=model, training=make_images(128, seed=1), taken=taken)
    model.load_state_dict(trained.weights)
    unseen = make_images(200, seed=3)
    scores = scoring.probabilities(model, taken, unseen.images, batch_size=64, device=CPU)
    assert metrics.summarise(unseen.labels, scores, 0.5)["auc"] > 0.9


@every_backbone
def test_training_moves_what_is_not_frozen_and_brings_the_loss_down(
    name: str, network: Callable[[str], nn.Module]
) -> None:
    unchanged = {field: 0 for field in AugmentationConfig.model_fields if "share" not in field}
    settings = config(
        epochs=4, batch_size=8, warmup_epochs=0, learning_rate=1e-4, trainable_stages=1, augmentation=unchanged
    )
    model, seen = network(name), Seen()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fine_tune(
        settings,
        name=name,
        model=model,
        training=make_images(8, seed=1),
        taken=InputFormat(64, HALVES, HALVES),
        seen=seen,
    )
    assert seen.epochs[-1].training_loss < seen.epochs[0].training_loss
    moved = {key for key, value in seen.checkpoints[-1].model.items() if not torch.equal(value, before[key])}
    trainable = tuple(f"{module}." for module in (*BACKBONES[name].stages[-1], BACKBONES[name].head))
    assert {key for key, _ in model.named_parameters() if key.startswith(trainable)} <= moved
    assert all(key.startswith(trainable) for key in moved)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not() -> None:
    first, again, other = (fine_tune(config(seed=seed)).weights for seed in (5, 5, 6))
    assert_same_bits(first, again)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_reading_ahead_changes_nothing() -> None:
    assert_same_bits(fine_tune(config()).weights, fine_tune(config(num_workers=3)).weights)


@pytest.mark.parametrize("stopped_after", [1, 2])
@pytest.mark.parametrize("trainable_stages", [2, "all"])
def test_resuming_gives_the_same_weights_to_the_bit(stopped_after: int, trainable_stages: object) -> None:
    whole, second_half = Seen(), Seen()
    settings = config(trainable_stages=trainable_stages)
    uninterrupted = fine_tune(settings, seen=whole)
    resumed = fine_tune(settings, resume=whole.checkpoints[stopped_after - 1], seen=second_half)
    assert_same_bits(resumed.weights, uninterrupted.weights)
    assert (resumed.best_epoch, resumed.num_epochs) == (uninterrupted.best_epoch, uninterrupted.num_epochs)
    curve = [(epoch.epoch, epoch.training_loss, epoch.tuning) for epoch in whole.epochs]
    assert [(epoch.epoch, epoch.training_loss, epoch.tuning) for epoch in second_half.epochs] == curve[stopped_after:]
    assert_same_bits(second_half.checkpoints[-1].optimizer, whole.checkpoints[-1].optimizer)


def looks(num_looks: int) -> Callable[[], bool]:
    """Stop at a look at the flag, counted from 1: there are four in an epoch, after three steps and one scoring,
    and one before each of the two batches that are scored."""
    seen = iter(range(1, 1000))
    return lambda: next(seen) >= num_looks


@pytest.mark.parametrize(
    ("num_looks", "stopped_at"),
    [
        (1, "step 1 of 3 of epoch 1"),
        (3, "step 3 of 3 of epoch 1"),
        (5, "step 3 of 3 of epoch 1"),
        (8, "step 2 of 3 of epoch 2"),
    ],
    ids=["first step", "before scoring", "while scoring", "second epoch"],
)
def test_stopped_within_an_epoch_it_goes_on_with_the_very_next_step_to_the_same_weights_to_the_bit(
    num_looks: int, stopped_at: str, tmp_path: Path
) -> None:
    settings, whole, first_part, rest = config(), Seen(), Seen(), Seen()
    uninterrupted = fine_tune(settings, seen=whole)
    with pytest.raises(Interrupted, match=stopped_at):
        fine_tune(settings, seen=first_part, is_stopping=looks(num_looks))
    checkpoints.save(tmp_path, first_part.checkpoints[-1], "a" * 64)
    resumed = fine_tune(settings, seen=rest, resume=checkpoints.load(tmp_path, "a" * 64))
    assert first_part.steps + rest.steps == whole.steps
    assert_same_bits(resumed.weights, uninterrupted.weights)
    assert_same_bits(rest.checkpoints[-1].optimizer, whole.checkpoints[-1].optimizer)
    curve = [(epoch.epoch, epoch.training_loss, epoch.tuning) for epoch in first_part.epochs + rest.epochs]
    assert curve == [(epoch.epoch, epoch.training_loss, epoch.tuning) for epoch in whole.epochs]


def test_every_process_needs_an_image_of_every_batch() -> None:
    with pytest.raises(ConfigError, match=r"a batch of 4 images is too small for 5 processes: raise training\.batch"):
        fine_tune(config(), workers=Workers(rank=0, count=5))


def test_a_finished_training_that_is_resumed_does_nothing_more() -> None:
    whole, again = Seen(), Seen()
    trained = fine_tune(config(epochs=2), seen=whole)
    resumed = fine_tune(config(epochs=2), resume=whole.checkpoints[-1], seen=again)
    assert again.steps == []
    assert_same_bits(resumed.weights, trained.weights)


def test_the_best_epochs_weights_are_kept() -> None:
    seen = Seen()
    trained = fine_tune(config(epochs=4, learning_rate=3e-2, seed=2), seen=seen)
    scores = [epoch.tuning["average_precision"] for epoch in seen.epochs]
    best = int(np.argmax(scores))
    assert trained.best_epoch == best + 1
    assert [epoch.is_best for epoch in seen.epochs] == [
        score > max(scores[:index], default=-1) for index, score in enumerate(scores)
    ]
    assert_same_bits(trained.weights, seen.checkpoints[best].model)


def test_training_stops_when_tuning_gets_no_better() -> None:
    seen = Seen()
    # A rate of almost nothing: no epoch can be better than the first.
    settings = config(epochs=50, early_stop_epochs=2, learning_rate=1e-12, min_learning_rate=1e-12)
    trained = fine_tune(settings, seen=seen)
    assert trained.num_epochs == trained.best_epoch + 2 < 50


def nan_when(model: nn.Module, when: Callable[[nn.Module, int], bool]) -> None:
    """Let the head give no numbers in those of its calls (from 1) of which `when` is true."""
    calls = iter(range(1, 1000))
    model.get_submodule("classifier").register_forward_hook(
        lambda head, _inputs, logits: logits * float("nan") if when(head, next(calls)) else logits
    )


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step() -> None:
    model = build(LITE0.timm_name)
    nan_when(model, lambda _head, call: call == 2)
    with pytest.raises(TrainingDiverged, match=r"step 2 of epoch 1\. Try a lower training\.learning_rate"):
        fine_tune(config(), model=model)


def test_tuning_scores_that_are_no_numbers_stop_the_training() -> None:
    model = build(LITE0.timm_name)
    nan_when(model, lambda head, _call: not head.training)
    with pytest.raises(TrainingDiverged, match=r"tuning scores became NaN in epoch 1"):
        fine_tune(config(), model=model)


def test_what_is_told_fits_together() -> None:
    seen = Seen()
    fine_tune(config(epochs=2, min_learning_rate=1e-5), seen=seen)
    assert seen.steps == [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3), (2, 2, 3), (2, 3, 3)]
    assert [epoch.epoch for epoch in seen.epochs] == [1, 2]
    assert seen.epochs[-1].learning_rate == pytest.approx(1e-5)
    assert all(set(epoch.tuning) == set(metrics.METRICS) for epoch in seen.epochs)
    assert all(epoch.images_per_second > 0 for epoch in seen.epochs)
    assert [checkpoint.epoch for checkpoint in seen.checkpoints] == [1, 2]


def test_tuning_images_are_never_augmented() -> None:
    """With nothing to learn, every epoch must score tuning alike, however wildly training images are changed."""
    seen = Seen()
    settings = config(learning_rate=1e-30, min_learning_rate=0, trainable_stages=0, weight_decay=0)
    fine_tune(settings, seen=seen)
    assert seen.epochs[0].tuning == seen.epochs[2].tuning


def test_every_epoch_changes_the_training_images_anew() -> None:
    seen = Seen()
    fine_tune(config(learning_rate=1e-30, min_learning_rate=0, trainable_stages=0, batch_size=12), seen=seen)
    first, second, third = (epoch.training_loss for epoch in seen.epochs)
    assert min(abs(first - second), abs(second - third), abs(first - third)) > 1e-4


def test_norms_and_biases_do_not_decay() -> None:
    model = build(LITE0.timm_name)
    decayed, kept = loop._decayed_and_not(model, 0.1)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert {id(parameter) for parameter in kept["params"]} == {
        id(parameter) for name, parameter in model.named_parameters() if name.endswith("bias") or "bn" in name
    }
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)


@pytest.mark.parametrize(("max_grad_norm", "moves"), [(1.0, True), (1e-13, False)])
def test_gradients_are_clipped(max_grad_norm: float, moves: bool) -> None:
    """AdamW takes steps of one length from gradients of any, but next to none from those below its epsilon."""
    trained = fine_tune(config(max_grad_norm=max_grad_norm, weight_decay=0))
    before = build(LITE0.timm_name, config().seed).state_dict()["classifier.weight"]
    assert bool((trained.weights["classifier.weight"] - before).abs().max() > 1e-5) == moves


def test_class_weights_shift_the_scores() -> None:
    def mean_score(class_weights: tuple[float, float]) -> float:
        settings = config(class_weights=class_weights, learning_rate=1e-2, trainable_stages=0, warmup_epochs=0, seed=1)
        trained = fine_tune(settings)
        model = build(LITE0.timm_name)
        model.load_state_dict(trained.weights)
        images = make_images(20, seed=1).images
        return float(scoring.probabilities(model, TAKEN, images, batch_size=20, device=CPU).mean())

    assert mean_score((1.0, 20.0)) > mean_score((20.0, 1.0)) + 0.2


def test_bfloat16_trains_on_a_cpu_too() -> None:
    seen = Seen()
    fine_tune(config(epochs=1, precision="bfloat16"), seen=seen)
    assert np.isfinite(seen.epochs[0].training_loss)
