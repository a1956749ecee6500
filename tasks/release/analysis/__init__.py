"""Judging a ramp from the interaction log: candidate against stable, at every look, with one error budget."""
