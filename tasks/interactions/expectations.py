"""Great Expectations for a frame: nothing is sent, nothing is shown, and it is imported where it is used."""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd


_SELDOM: Final = ("altair", "scipy", "scipy.stats")
"""What it imports for expectations that are not used here: more than a third of the time its import takes."""


def great_expectations() -> Any:
    """Return the package, quiet and without its statistics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    if "great_expectations" in sys.modules:
        return sys.modules["great_expectations"]
    with warnings.catch_warnings(), _when_used(_SELDOM), _without_collecting():
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


class _Later:
    """Finds some modules so that they are loaded when something of them is used."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: Any = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextmanager
def _when_used(names: Sequence[str]) -> Iterator[None]:
    finder = _Later(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _without_collecting() -> Iterator[None]:
    # What an import makes stays: to look through it again and again is a fifth of the time.
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
