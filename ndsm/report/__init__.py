"""The report of a run: its numbers, figures and page.

Not here: how the numbers come about (`ndsm.workflows`, `ndsm.metrics`).
"""
