"""What is inferred with a trained score: likelihood, clean rows of noisy ones, imputation, inverse problems, guidance.

Not here: plain generation (`ndsm.samplers`).
"""
