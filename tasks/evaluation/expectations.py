"""The gate: what must hold of a window before anything is concluded from it, as Great Expectations.

Only columns without text pass through it. Great Expectations sends no statistics from here, and is imported where
it is used, because that takes seconds.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.evaluation.window import Window

if TYPE_CHECKING:
    import pandas as pd

GATE_COLUMNS: Final = (
    "interaction_id", "application", "time_utc", "status", "latency_ms",
    "input_tokens", "output_tokens", "cached_input_tokens",
)  # fmt: skip
"""The columns of the interaction log that the gate looks at."""
LONGEST_CALL_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whether a window can be trusted.

    Attributes:
        success: Whether everything expected holds.
        n: Rows looked at.
        expectations: How many things were expected.
        failures: What does not hold, with counts, in words.
    """

    success: bool
    n: int
    expectations: int
    failures: tuple[str, ...] = ()


def validate(frame: pd.DataFrame, window: Window) -> Gate:
    """Hold the rows of a window against what must be true of any interaction log.

    Args:
        frame: Rows with ``GATE_COLUMNS``; no text.
        window: Where their times must lie.

    Returns:
        The gate, with one line for each expectation that does not hold or could not be evaluated.
    """
    missing = [name for name in GATE_COLUMNS if name not in frame.columns]
    if missing:
        lines = tuple(f"column {name} is missing" for name in missing)
        return Gate(success=False, n=len(frame), expectations=len(GATE_COLUMNS), failures=lines)
    suite = _suite(window)
    outcome = _batch(frame).validate(suite)
    failures = tuple(_words(result) for result in outcome.results if not result.success)
    held = bool(outcome.success)
    return Gate(success=held, n=len(frame), expectations=len(suite.expectations), failures=failures)


def _suite(window: Window) -> Any:
    gx = _great_expectations()
    expect = gx.expectations
    between, rule = expect.ExpectColumnValuesToBeBetween, _rule
    return gx.ExpectationSuite(
        name="interactions",
        expectations=[
            *(expect.ExpectColumnValuesToNotBeNull(column=name, **rule("known")) for name in GATE_COLUMNS[:4]),
            *(between(column=name, min_value=0, **rule("0 or more")) for name in GATE_COLUMNS[5:]),
            expect.ExpectColumnValuesToBeUnique(column="interaction_id", **rule("unique")),
            between(column="status", min_value=100, max_value=599, **rule("from 100 to 599")),
            between(column="latency_ms", min_value=0, max_value=LONGEST_CALL_MS, **rule("from 0 ms to a day")),
            expect.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="input_tokens",
                column_B="cached_input_tokens",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
                **rule("at least cached_input_tokens"),
            ),
            between(
                column="time_utc",
                min_value=window.start,
                max_value=window.end,
                strict_max=True,
                **rule(f"in {window.label}"),
            ),
        ],
    )


def _rule(words: str) -> dict[str, Any]:
    return {"meta": {"rule": words}}


def _batch(frame: pd.DataFrame) -> Any:
    context = _great_expectations().get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("window")
    asset = source.add_dataframe_asset("interactions")
    whole = asset.add_batch_definition_whole_dataframe("all")
    return whole.get_batch(batch_parameters={"dataframe": frame})


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # It still imports modules that Python deprecates.
        warnings.simplefilter("ignore")
        import great_expectations as gx
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return gx


def _words(result: Any) -> str:
    config = result.expectation_config
    column = config.kwargs.get("column") or config.kwargs.get("column_A")
    rule = f"{column} must be {config.meta['rule']}"
    if result.exception_info.get("raised_exception"):
        return f"{rule}: could not be evaluated"
    broken, rows = result.result.get("unexpected_count"), result.result.get("element_count")
    return f"{rule}: broken by {broken} of {rows} rows"
