"""Great Expectations for a frame: nothing is sent, nothing is shown, and it is imported where it is used."""

from __future__ import annotations

import logging
import os
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def great_expectations() -> Any:
    """Return the package, quiet and without its statistics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # It still imports modules that Python deprecates.
        warnings.simplefilter("ignore")
        import great_expectations as gx
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return gx


def open_frame(frame: pd.DataFrame) -> Any:
    """Return a frame as a batch that can be validated."""
    return _whole().get_batch(batch_parameters={"dataframe": frame})


@cache
def _whole() -> Any:
    context = great_expectations().get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("batches").add_dataframe_asset("interactions")
    return asset.add_batch_definition_whole_dataframe("all")
