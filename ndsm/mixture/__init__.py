"""The Gaussian mixture: its fit, density and score, covariance kinds, conditional laws.

Not here: processes that have a mixture as their prior (`ndsm.processes`).
"""

from ndsm.mixture.gaussian_mixture import CovarianceType, GaussianMixture

__all__ = ["CovarianceType", "GaussianMixture"]
