"""The users of an A/B test: who met one arm only, and the one number that stands for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def apart(calls_by_arm: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the calls of the users that met one arm only."""
    met = [pc.unique(table["unit"].drop_null()).to_pylist() for table in calls_by_arm.values()]
    units, counts = np.unique(np.concatenate([np.array(one, dtype=object) for one in met]), return_counts=True)
    crossed = units[counts > 1].tolist()
    kept = {
        arm: pc.invert(pc.is_in(table["unit"], value_set=pa.array(crossed, table["unit"].type)))
        for arm, table in calls_by_arm.items()
    }
    return {arm: table.filter(kept[arm]) for arm, table in calls_by_arm.items()}


def user_means(units: pa.ChunkedArray, values: Numbers) -> Numbers:
    """Return the mean of each user's known values.

    Args:
        units: Who made each call; NULL is somebody of their own.
        values: One a call; NaN is unknown and counts in no mean.

    Returns:
        One mean a user that has any known value, in no particular order.
    """
    known = ~np.isnan(values)
    encoded = units.filter(pa.array(known)).combine_chunks().dictionary_encode()
    who = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    who[who < 0] = len(encoded.dictionary) + np.arange(int((who < 0).sum()))
    return np.bincount(who, weights=values[known]) / np.bincount(who) if len(who) else np.empty(0)
