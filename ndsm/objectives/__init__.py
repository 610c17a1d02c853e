"""Training objectives: each gives a loss per row and names what a simulator must record for it."""

from ndsm.objectives.ndsm import NDSM, Objective, Score

__all__ = ["NDSM", "Objective", "Score"]
