"""The sections `reference`, `process`, `objective` and `network`: what is trained."""

from typing import Annotated, Literal

from pydantic import Field

from ndsm.config.roles import setting
from ndsm.config.section import Section
from ndsm.errors import InputError


class Reference(Section):
    """The Gaussian mixture that is prior of the generator and stationary law of the noising."""

    n_components: Annotated[int, Field(ge=1)] | Literal["auto"] = setting("training", 10, basic=True)
    """Mixture components K (the most it may use, if reference.bayesian); auto: as many as make rows likeliest that the fit has
    not seen, up to 80."""
    covariance_type: Literal["spherical", "tied", "diag", "full", "auto"] = setting(
        "training", "spherical", basic=True
    )
    """Shape of the component covariances; auto: the one that makes rows likeliest that the fit has not seen."""
    bayesian: bool = setting("training", False)
    """Infer how many components are needed (BayesianGaussianMixture)."""
    fit_samples: int = setting("training", 10_000, ge=2)
    """Rows the mixture is fitted on (at most; drawn at random)."""
    reg_covar: float = setting("training", 1e-6, gt=0.0)
    """Variance added to the covariances' diagonal; bounds the smallest eigenvalue from below."""
    init_params: Literal["kmeans", "k-means++", "random_from_data"] = setting("training", "kmeans")
    """What the fit starts from, as scikit-learn calls it: k-means' clusters, its spread-out seeds, or rows at random."""
    n_init: int = setting("training", 1, ge=1)
    """Initialisations of the fit; the best is kept."""


class Grid(Section):
    """The forward time grid."""

    kind: Literal["uniform", "geometric", "importance"] = setting("training", "uniform")
    """Equal steps; steps that grow geometrically from process.last_dt up to the stable size; or steps from process.last_dt on
    over which g²/V grows by the same, which makes the weight by V(t) the likelihood's."""
    steps: int = setting("training", 50, ge=1)
    """Steps from time 0 to the horizon."""
    jitter: float = setting("training", 0.9, ge=0.0, lt=1.0)
    """Each group of trajectories moves its grid by up to this fraction of a step, so that the network sees
    all times and not just the grid's own."""


class Process(Section):
    """The forward noising dY = -f(Y, t) dt + g(t) dW."""

    kind: Literal["langevin", "vp", "ve", "subvp", "ou", "mixture-ou"] = setting(
        "training", "langevin", basic=True
    )
    """Nonlinear, f = -grad log(mixture density) and g = sqrt(2); linear with a known transition law; or, mixture-ou, each row by
    the linear process of a mixture component that is drawn for it, in that component's own coordinates."""
    form: Literal["component", "marginal"] = setting("training", "component")
    """What the network of mixture-ou learns: the score of each component in its coordinates; or one velocity field for the rows,
    whose components it does not see (flow matching from the mixture), for the samplers ode, ode-adaptive, ddim and dpmpp-2m."""
    beta_min: float = setting("training", 0.1, gt=0.0)
    """β at time 0 (vp, subvp)."""
    beta_max: float = setting("training", 20.0, gt=0.0)
    """β at the horizon (vp, subvp)."""
    sigma_min: float = setting("training", 0.01, gt=0.0)
    """Noise scale at time 0, data units (ve)."""
    sigma_max: float | None = setting("training", 20.0, gt=0.0)
    """Noise scale at the horizon, data units (ve); null: the largest distance between two training rows."""
    horizon: float = setting("training", 0.5, gt=0.0, basic=True)
    """Final time T, in the process's own time unit (squared data units)."""
    grid: Grid = Grid()
    last_dt: float | None = setting("training", 1e-3, gt=0.0)
    """Size of the recorded example's own last step (the paper's Δt_N); the grid's own step if null."""
    integrator: Literal["auto", "euler-maruyama", "exponential"] = setting("training", "euler-maruyama")
    """One-step scheme of the simulation; the exponential one is exact while a path stays in its mixture component,
    and stable for any step. auto: exponential where the process has a mixture and the objective takes it, else
    euler-maruyama."""


WITH_MIXTURE = ("langevin", "mixture-ou")
"""Processes of a fitted mixture."""
WITH_EPSILON = ("ndsm-cv", "path")
"""Objectives whose control variate has a factor ε(t)."""


class Epsilon(Section):
    """The factor ε(t) of the control variate (Theorem 3.2); for objective.kind ndsm-cv and path."""

    kind: Literal["constant", "piecewise-linear", "closed-form", "network"] = setting(
        "training", "closed-form"
    )
    """A fixed value, fixed values joined by lines, the minimiser of eq. 22 per bin of log t, or the paper's network
    ε_φ."""
    value: float = setting("training", 0.0, adjustable=True)
    """The constant. ndsm-cv: 0 is NDSM, 1 undoes the cancellation of Theorem 3.1. path: 0 is implicit score matching,
    1 is closest to denoising score matching."""
    values: tuple[float, ...] = setting("training", (1.0, 0.0), min_length=2, adjustable=True)
    """piecewise-linear: ε at as many times, equally spaced in log t from the smallest trained one to the horizon."""
    every: int = setting("training", 20, ge=1, adjustable=True)
    """Steps between updates of an ε that learns (the paper's N_CV)."""
    bins: int = setting("training", 20, ge=1)
    """Bins of log t of the closed form; 1 makes it a constant."""
    lr: float = setting("training", 1e-3, gt=0.0, adjustable=True)
    """Adam's learning rate for the network ε_φ."""


class Objective(Section):
    """What is minimised."""

    kind: Literal["ndsm", "ndsm-cv", "antithetic", "path", "dsm", "mixture-dsm", "sliced"] = setting(
        "training", "ndsm", basic=True
    )
    """NDSM (Theorem 3.1); with a control variate (Theorem 3.2); averaged over both signs of the last increment;
    with a control variate from the whole path; denoising score matching (linear processes); each point noised by
    its own component's linear process; sliced score matching, which takes any process."""
    epsilon: Epsilon = Epsilon()
    component: Literal["drawn", "likeliest"] = setting("training", "drawn")
    """The component whose process noises a row, for objective.kind mixture-dsm: drawn by the row's responsibilities, anew each
    time, or the likeliest, which bends the rows' law where components overlap."""
    mirrored: bool = setting("training", False)
    """Average the loss of a row over its noise and the opposite, at two evaluations of the network; for objective.kind dsm and
    mixture-dsm. The others have two evaluations anyhow."""
    weighting: Literal["none", "variance", "likelihood", "velocity"] = setting("training", "variance")
    """Weight of an example at time t: 1; V(t), the variance the noising has added by then; what makes the loss a bound on
    the likelihood, g(t)² over the density of the grid's times; or V(t)/α(t)² of a linear process, the squared error of a
    velocity."""


Residual = bool | Literal["fading"]
"""Whether the stationary score is part of the model's."""


class Network(Section):
    """The score network s(y, t)."""

    kind: Literal["mlp", "resmlp", "unet", "diffusers"] = setting("training", "mlp", basic=True)
    """Plain multilayer perceptron (the paper's), one of residual blocks modulated by the time, or, for rows that are
    square grey images, pixel row by pixel row, the paper's U-Net or the one of the diffusers library (optional)."""
    width: int = setting("training", 32, ge=1, basic=True)
    """Units per hidden layer; channels of a U-Net's first level, a multiple of 8, doubled at each further one."""
    depth: int = setting("training", 7, ge=1, basic=True)
    """Hidden layers (mlp), residual blocks (resmlp), or levels of a U-Net, each at half the side of the one before
    (the paper's has 4)."""
    residual: Residual = setting("training", True)
    """Learn the difference from the stationary score: s = -grad V + net/scale; `fading` multiplies -grad V by
    V(t)/V(T), which goes to 0 with t."""
    output_scale: Literal["none", "std", "velocity"] = setting("training", "std")
    """Divide the network's output by 1, by sqrt(V(t)), or by sqrt(V(t))/α(t) of a linear process: with network.residual and
    rows of variance 1 it is then the velocity α Z - σ Y_0 that the network learns."""
    time_features: int = setting("training", 8, ge=0)
    """Random Fourier features of log t beside log t itself."""
    classes: Annotated[int, Field(ge=0, lt=2**15)] | Literal["auto"] = setting("training", 0, basic=True)
    """Number of labels that the score is learned for, beside the score without; 0 learns the latter alone, auto counts the
    different labels of the data. Digits, MNIST, toys and image folders have labels of their own, tables those of
    data.labels."""
    label_dropout: float = setting("training", 0.1, ge=0.0, le=1.0)
    """Share of the examples whose label is dropped: what the score without a label is learned from."""
    time_scale: float = setting("training", 1.0, gt=0.0)
    """Standard deviation of those features' frequencies; large ones are wrong between trained times."""

    @property
    def class_count(self) -> int:
        """`classes` of a configuration whose data have been counted."""
        if self.classes == "auto":
            raise InputError("network.classes: expected a number here, found 'auto'")
        return self.classes
