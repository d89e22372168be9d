"""Calibration by temperature: of the images that are given a probability of 0.8, eight in ten should show cancer.

    probability' = expit(logit(probability) / temperature)

One number, so little can go wrong: the order of the images stays, and with it every metric that needs no
operating point, but for the Brier score. A temperature above 1 makes an overconfident model humbler.

Source: Guo, Pleiss, Sun & Weinberger, On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599,
section 4.2. Of two logits under a softmax, dividing both by the temperature is the formula above.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from bc_tasks.records import Calibration

Floats = npt.NDArray[np.float64]
LOWEST, HIGHEST = 0.05, 20.0
"""The temperatures that are looked at."""
SUREST_LOGIT = float(logit(1 - 1e-6))
"""How sure a temperature below 1 may make a tuning image: a model that parts all of them would get a temperature of 0,
the probabilities 0 and 1 without any order, and a certainty that so few images can't vouch for."""
NUM_BINS = 15
"""Of the calibration error, as in Guo et al."""
CLOSEST = 2.0**-53
"""How near to 0 or 1 a probability may come before its logit is taken: 1 has no neighbour nearer than this."""


def apply(probabilities: npt.ArrayLike, temperature: float) -> Floats:
    """Return probabilities (N,) in [0, 1] at a temperature above 0; at 1, and where they are NaN, as they were."""
    before = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1:
        return before
    after: Floats = expit(_logits(before) / temperature)
    return after


def fit(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Calibration:
    """Fit the temperature with the lowest log loss on labels (N,) in {0, 1} and finite probabilities (N,); N > 0.

    It is 1, with the reason in `note`, where nothing can be fitted or nothing is gained. Both errors "after" are on the
    images of the fit; one number on many images is hardly overfitted. Fit it on tuning only.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    if len(set(truth)) < 2:
        return _measure(truth, scores, 1.0, "all images have one label, so nothing could be fitted")
    if len(set(scores)) < 2:
        return _measure(truth, scores, 1.0, "all images have the same probability, so nothing could be fitted")
    lowest = min(1.0, max(LOWEST, float(np.abs(_logits(scores)).max()) / SUREST_LOGIT))
    temperature = _best(truth, scores, lowest)
    if log_loss(truth, apply(scores, temperature)) >= log_loss(truth, scores):
        return _measure(truth, scores, 1.0, "no temperature that is allowed has a lower log loss")
    at_bound = not lowest * 1.001 < temperature < HIGHEST / 1.001
    return _measure(truth, scores, temperature, "as far as a temperature may go" if at_bound else "")


def none(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Calibration:
    """Measure labels (N,) and probabilities (N,) as they are, for a model that is not to be calibrated."""
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    return _measure(truth, scores, 1.0, "switched off in the configuration")


def _logits(probabilities: Floats) -> Floats:
    logits: Floats = logit(np.clip(probabilities, CLOSEST, 1 - CLOSEST))
    return logits


def _best(labels: npt.NDArray[np.int64], scores: Floats, lowest: float) -> float:
    """Return the temperature, from `lowest` on, with the lowest log loss.

    The loss is convex in 1 / temperature, so over its logarithm too there is one lowest place.
    """
    found = minimize_scalar(
        lambda log_temperature: log_loss(labels, apply(scores, float(np.exp(log_temperature)))),
        bounds=(np.log(lowest), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def _measure(labels: npt.NDArray[np.int64], before: Floats, temperature: float, note: str) -> Calibration:
    after = apply(before, temperature)
    return Calibration(
        temperature=temperature,
        log_loss_before=log_loss(labels, before),
        log_loss_after=log_loss(labels, after),
        error_before=calibration_error(labels, before),
        error_after=calibration_error(labels, after),
        num_images=len(labels),
        note=note,
    )


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood, in nats, of labels (N,); one sure mistake costs 36.7, not infinity."""
    truth, scores = np.asarray(labels), np.clip(probabilities, CLOSEST, 1 - CLOSEST)
    return float(-np.mean(np.where(truth == 1, np.log(scores), np.log1p(-scores))))


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the expected calibration error, 0 to 1, over 15 bins of equal width of the probability of cancer.

    It is the mean, over the images, of the gap between their bin's mean probability and its share of cancer.

    Source: Guo et al. 2017, section 2, equation 3, there over the probability of the predicted class.
    """
    truth, scores = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, truth - scores, NUM_BINS)
    return float(np.abs(gaps).sum() / len(truth))
