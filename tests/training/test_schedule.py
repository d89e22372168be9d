import numpy as np
import pytest
import torch

from bc_tasks.config import TrainingConfig
from bc_tasks.errors import ConfigError
from bc_tasks.training.schedule import class_weights, learning_rate, reduced_precision

CPU = torch.device("cpu")


def test_the_rate_warms_up_in_a_line_and_ends_at_its_minimum() -> None:
    config = TrainingConfig(epochs=5, warmup_epochs=1, learning_rate=1e-3, min_learning_rate=1e-5)
    rates = [learning_rate(step, config, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([1e-4 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[30] == pytest.approx((1e-3 + 1e-5) / 2, rel=0.05), "half the way down in the middle"


@pytest.mark.parametrize(("epochs", "warmup", "steps"), [(1, 1, 1), (1, 0, 1), (2, 5, 3), (1, 0, 2)])
def test_the_rate_is_within_its_bounds_however_short_the_training(epochs: int, warmup: float, steps: int) -> None:
    config = TrainingConfig(epochs=epochs, warmup_epochs=warmup)
    for step in range(epochs * steps):
        assert 0 < learning_rate(step, config, steps) <= config.learning_rate


def test_balanced_weights_give_both_labels_the_same_say() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    no_cancer, cancer = class_weights(TrainingConfig(), labels)
    assert no_cancer * 30 == pytest.approx(cancer * 10)
    assert no_cancer * 30 + cancer * 10 == pytest.approx(40)


def test_weights_of_the_configuration_are_taken_as_they_are() -> None:
    assert class_weights(TrainingConfig(class_weights=(1.0, 1.5)), np.array([0, 1])) == (1.0, 1.5)


@pytest.mark.parametrize(("precision", "wanted"), [("auto", None), ("float32", None), ("bfloat16", torch.bfloat16)])
def test_a_cpu_computes_in_float32_unless_told_otherwise(precision: str, wanted: torch.dtype | None) -> None:
    assert reduced_precision(TrainingConfig.model_validate({"precision": precision}), CPU) == wanted


def test_float16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match='"float16", but there is no GPU here; write "auto"'):
        reduced_precision(TrainingConfig(precision="float16"), CPU)
