"""Score the answers of a ramp as they come, each once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tasks.scoring.quality import score_quality
from tasks.scoring.toxicity import score_toxicity

TEXT_COLUMNS = ("interaction_id", "input_text", "output_text", "context_text")
"""The columns of the interaction log that scores are made from."""


@dataclass(slots=True)
class Scores:
    """The scores of the answers seen so far, by interaction."""

    _known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, texts: pa.Table) -> None:
        """Score what is not scored yet.

        Args:
            texts: Rows of the log with ``TEXT_COLUMNS``.
        """
        rows = [row for row in texts.to_pylist() if row["interaction_id"] not in self._known]
        if not rows:
            return
        questions, answers, contexts = ([row[name] for row in rows] for name in TEXT_COLUMNS[1:])
        quality, toxicity = score_quality(questions, answers, contexts), score_toxicity(answers)
        ids = (row["interaction_id"] for row in rows)
        self._known.update(zip(ids, zip(quality.tolist(), toxicity.tolist(), strict=True), strict=True))

    def attach(self, calls: pa.Table) -> pa.Table:
        """Return the calls with ``quality`` and ``toxicity``, NaN where there is no score.

        Args:
            calls: Rows of the log with ``interaction_id``.
        """
        nothing = (np.nan, np.nan)
        found = [self._known.get(name, nothing) for name in calls["interaction_id"].to_pylist()]
        scores = np.array(found, dtype=np.float64).reshape(len(found), 2)
        return calls.append_column("quality", pa.array(scores[:, 0])).append_column("toxicity", pa.array(scores[:, 1]))
