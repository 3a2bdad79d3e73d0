"""Between outputs (logits) and probabilities, in float64 so that sums come out right. No input gives NaN or infinity."""

import numpy as np
from numpy.typing import NDArray

#: The least probability that a baseline may state: its logarithm must stay finite.
LEAST = 1e-12


def softmax(
    logits: NDArray[np.floating],  # [n, classes]
) -> NDArray[np.float64]:
    """Class probabilities of logits; rows sum to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The logistic function; written with tanh, which never overflows."""
    result: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return result


def log(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-probabilities, finite also where a probability is 0."""
    return np.log(np.maximum(probabilities.astype(np.float64), LEAST)).astype(np.float32)


def logit(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """The inverse of `sigmoid`, finite also at 0 and 1."""
    clipped = np.clip(probabilities.astype(np.float64), LEAST, 1.0 - LEAST)
    return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
