"""What the README has people paste into the form of the rollout is what the form takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.release.model import ReleaseSpec
from tasks.release.ramp import RampPolicy

ROOT = Path(__file__).parents[2]


def test_the_form_of_the_readme_can_be_submitted() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```jsonc\n(.*?)\n```", text, re.DOTALL)
    parameters = json.loads(shown)
    assert sorted(parameters) == ["ramp", "release"]
    assert ReleaseSpec.model_validate(parameters["release"]).application == "faq"
    assert RampPolicy.model_validate(parameters["ramp"]).approval
