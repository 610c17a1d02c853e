"""The fit of a Gaussian mixture to rows, by scikit-learn."""

import warnings

import numpy as np
import torch
from torch import Tensor

from ndsm.errors import InputError


def fit_parameters(
    x: np.ndarray,
    n_components: int,
    covariance_type: str,
    *,
    bayesian: bool,
    fit_samples: int | None,
    reg_covar: float,
    init_params: str,
    n_init: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances in float64; arguments and errors as of `GaussianMixture.fit`."""
    # Here, because simulators import this module and never fit: scikit-learn takes seconds to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture
    from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

    rng = np.random.default_rng(seed)
    n = min(len(x), fit_samples or len(x))
    if n < n_components:
        raise InputError(
            f"reference.n_components: expected at most the {n} rows it is fitted on, found {n_components}"
        )
    rows = x if n == len(x) else x[np.sort(rng.choice(len(x), n, replace=False))]
    model = (BayesianGaussianMixture if bayesian else SklearnGaussianMixture)(
        n_components=n_components,
        covariance_type=covariance_type,
        reg_covar=reg_covar,
        init_params=init_params,
        n_init=n_init,
        max_iter=200,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A fit that has not quite converged is as good a prior; the objective corrects the rest.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(np.asarray(rows, dtype=np.float64))
        except ValueError as error:
            raise InputError(
                f"reference: the mixture could not be fitted ({' '.join(str(error).split())}); "
                "use fewer components or a larger reference.reg_covar"
            ) from None
    weights, means, covariances = (
        torch.from_numpy(a) for a in (model.weights_, model.means_, model.covariances_)
    )
    if bayesian:
        kept = weights * n >= 2
        weights, means = weights[kept], means[kept]
        covariances = covariances if covariance_type == "tied" else covariances[kept]
    return weights, means, covariances
