"""The formulas: from counts to precision, recall, F1, an interval for the accuracy, and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


def share(part: float, whole: float) -> float | None:
    """Return `part / whole`; None where there is nothing to divide by."""
    return part / whole if whole else None


def f1(hits: int, expected: int, answered: int) -> float | None:
    """Return the harmonic mean of precision and recall, 2·hits / (expected + answered).

    None for a label that was neither expected nor answered. van Rijsbergen, Information Retrieval, 1979, chapter 7.

    Args:
        hits: rows that expect the label and got it.
        expected: rows that expect it.
        answered: rows that got it.
    """
    return share(2 * hits, expected + answered)


def wilson(right: int, rows: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share, which is honest for few rows too.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    p = right / rows
    middle = (p + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(p * (1 - p) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(slots=True)
class Bin:
    """Rows with about the same probability.

    Attributes:
        probability: the sum of their probabilities.
        true: how many of them came true.
        squares: the sum of the squared differences of the two.
    """

    rows: int = 0
    probability: float = 0.0
    true: int = 0
    squares: float = 0.0


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Return the mean gap between what was claimed and what came true: Σ rows/all · |true share - mean claim|.

    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 5.
    """
    return share(sum(abs(each.true - each.probability) for each in bins), sum(each.rows for each in bins))


def brier(bins: Sequence[Bin]) -> float | None:
    """Return the mean squared difference between the probability and what came true (1 or 0).

    Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78 (1950), for two
    outcomes; his own sum over both of them is twice this number.
    """
    return share(sum(each.squares for each in bins), sum(each.rows for each in bins))
