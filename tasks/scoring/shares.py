"""What calls are counted by beside the monitors: checks that failed, and users who were not content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.evaluation.summary import numbers
from tasks.scoring.checks import CHECKS, Found

CHECK_PREFIX: Final = "check_"
"""The columns of the states of checks."""
NEGATIVE: Final = "negative"
"""The column of feedback: 1 where a user was not content, 0 where users were."""


def share_values(calls: pa.Table) -> Mapping[str, NDArray[np.float64]]:
    """Return for each call 1, 0 or NaN (unknown) by what is counted, as far as the table has it."""
    found = {}
    for name in CHECKS:
        if f"{CHECK_PREFIX}{name}" in calls.column_names:
            states = numbers(calls[f"{CHECK_PREFIX}{name}"])
            found[f"check:{name}"] = np.where(states <= Found.FAIL, states, np.nan)
    if NEGATIVE in calls.column_names:
        found["feedback"] = numbers(calls[NEGATIVE])
    return found


def share_words(name: str) -> str:
    """Return what is counted, for people."""
    return "negative feedback" if name == "feedback" else CHECKS[name.removeprefix("check:")].failure
