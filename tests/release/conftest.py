"""The simulations and peers of the benchmark, and the stage of the crash tests, serve smaller tests as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "crash"))
sys.path.append(str(Path(__file__).resolve().parent))
