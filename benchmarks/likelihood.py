"""Held-out log-likelihood, nats per row, of small tables, digits and thin arcs: NDSM, VP + DSM, mixture, kernel density estimate.

    python benchmarks/likelihood.py [--data wine,diabetes,digits,arcs] [--seeds 3] [--out FILE.json]

Rows are split 64 : 16 : 20 by the seed into those that are trained on, those that choose, and those that are scored.
All are in standardised units; digits' grey levels have uniform noise of one level added, and constant columns left out. The
mixture has full covariances and as many components (1 to 10) as minimise BIC, fitted to the first two parts. NDSM's
reference is the mixture, among other covariances and variances added to them too, that the second part is likeliest
under; on arcs the preset's. The small tables are whitened within their modes for both models, their mixture as well. The kernel density estimate's bandwidth is that of the best mean in 5-fold cross-validation on the first two parts. Both models are trained on the first for each of several numbers of steps; the second chooses among these
and among times at which the density is taken, and a model trained so on both parts is scored.
"""

import argparse
import itertools
import json
import statistics
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from ndsm import NDSM, load_config
from ndsm.config import build_config, merge
from ndsm.data.toys import make_toy
from ndsm.data.whitening import fit_whitening
from ndsm.inference.likelihood import log_density

TABLES = {"wine": load_wine, "diabetes": load_diabetes, "digits": load_digits}
ARCS = 2000
"""Points of the toy in the plane."""
STEPS = (200, 800, 3200)
"""Training steps that a model may have: few rows are soon known by heart."""
ENDS = (0.003, 0.03, 0.1)
"""Times at which the density may be taken."""
PROBES = 8
"""Random directions, where they are many fewer than columns, of the densities that only choose."""
TOLERANCE = 1e-4
"""Of the solver's steps: nats are compared to a hundredth."""
RIDGE = 1e-3
"""Variance added to the covariances of the mixture by BIC, in standardised units."""
REFERENCES = tuple(itertools.product((1, 2, 3, 5, 10, 20), ("full", "tied", "diag"), (0.001, 0.01, 0.1, 0.3)))
"""Components, covariances and the variance added to them, of NDSM's reference."""
REFERENCE_FIELDS = ("reference.n_components", "reference.covariance_type", "reference.reg_covar")
MODES = 3
"""That the whitening of a small table tells apart."""
COMMON: dict[str, Any] = {
    # Errors of the score at large times cost likelihood, and the mixture is near the data.
    "process.horizon": 0.5,
    "process.integrator": "exponential",
    "process.grid.steps": 40,
    "sample.sampler": "ode",
    "network.width": 64,
    "network.depth": 2,
}
SMALL: dict[str, Any] = {
    "process.horizon": 0.2,
    "train.lr": 3e-4,
    "data.whiten": "within-mode",
    "data.whiten_components": MODES,
}
"""Tables of a few hundred rows with correlated columns."""
FIELDS: dict[str, dict[str, Any]] = {
    "wine": SMALL,
    "diabetes": SMALL,
    "digits": {},
    # As in the preset toy-arcs: thinner modes are likelier, and stiff to integrate through.
    "arcs": dict(zip(REFERENCE_FIELDS, (10, "spherical", 0.02), strict=True)),
}
"""What differs between the data sets, for both models."""
VP: dict[str, Any] = {
    "process.kind": "vp",
    "process.horizon": 1.0,
    "process.integrator": "euler-maruyama",
    "process.grid": {"kind": "importance", "steps": 40},
    "objective.kind": "dsm",
    "train.times_per_path": 1,
}


Row = dict[str, float]


def rows_of(name: str, seed: int) -> np.ndarray:
    """All rows in a random order, standardised."""
    rng = np.random.default_rng(seed)
    x = make_toy("arcs").sample(ARCS, rng)[0] if name == "arcs" else TABLES[name]().data
    if name == "digits":
        x = x[:, x.std(0) > 0] + rng.random(x[:, x.std(0) > 0].shape)
    # Diabetes' sex is one of two numbers, on which a density would be a spike as high as its width is small.
    x = x[:, [len(np.unique(column)) > 2 for column in x.T]]
    x = x[rng.permutation(len(x))]
    return np.asarray((x - x.mean(0)) / x.std(0), dtype=np.float32)


def mixture_by_bic(x: np.ndarray, seed: int) -> GaussianMixture:
    """The full-covariance mixture of least BIC."""
    models = [
        GaussianMixture(k, reg_covar=RIDGE, n_init=3, random_state=seed).fit(x)
        for k in range(1, 11)
        if len(x) > 2 * k
    ]
    return min(models, key=lambda model: model.bic(x))


def mixture_of(choice: tuple[int, str, float], rows: np.ndarray, seed: int) -> GaussianMixture:
    """The mixture of one of `REFERENCES`, fitted to the rows."""
    components, covariance, added = choice
    model = GaussianMixture(components, covariance_type=covariance, reg_covar=added, random_state=seed)
    return model.fit(rows)


def fitted(fields: dict[str, Any], kind: str, rows: np.ndarray, seed: int, steps: int) -> NDSM:
    """A model of the rows."""
    config = build_config(merge(load_config("table-langevin").model_dump(mode="json"), fields), "likelihood")
    return NDSM(
        config.reference.n_components,
        covariance_type=config.reference.covariance_type,
        objective=kind,
        max_steps=steps,
        batch_rows=128,
        config=config,
        random_state=seed,
    ).fit(rows)


def mean_density(model: NDSM, rows: np.ndarray, end: float, probes: int = 0) -> float:
    """Mean log-density of rows at time `end`, by so many random directions or exactly (0)."""
    y = torch.from_numpy(model._model.scaling.apply(rows))
    problem, network = model._model.problem, model._model.network
    nats = log_density(problem.process, network, y, end, probes=probes, tolerance=TOLERANCE)[0].mean()
    return float(nats) - model._model.scaling.log_volume


def model_score(fields: dict[str, Any], kind: str, parts: list[np.ndarray], seed: int) -> Row:
    """Held-out mean log-density of a model, trained for the steps and taken at the time that the second part chooses."""
    choices: dict[tuple[int, float], float] = {}
    probes = PROBES if parts[1].shape[1] > 4 * PROBES else 0
    for steps in STEPS:
        model = fitted(fields, kind, parts[0], seed, steps)
        choices |= {(steps, end): mean_density(model, parts[1], end, probes) for end in ENDS}
    steps, end = max(choices, key=lambda choice: choices[choice])
    model = fitted(fields, kind, np.concatenate(parts[:2]), seed, steps)
    return {"nats": mean_density(model, parts[2], end), "steps": steps, "end": end}


def compare(name: str, seed: int) -> dict[str, Row]:
    """Held-out nats per row of every method."""
    x = rows_of(name, seed)
    parts = np.split(x, [int(0.64 * len(x)), int(0.8 * len(x))])
    known, held_out = np.concatenate(parts[:2]), parts[2]
    mixture = mixture_by_bic(known, seed)
    bandwidths = {"bandwidth": np.geomspace(0.05, 2.0, 20)}
    kernel = GridSearchCV(KernelDensity(), bandwidths, cv=5).fit(known).best_estimator_
    own = FIELDS[name]
    # The model's units, in which its mixture is fitted; whitening takes no more from the parts than the model's own does.
    model_units, volume = [parts[0], parts[1], known, held_out], 0.0
    if "data.whiten" in own:
        columns = [str(k) for k in range(x.shape[1])]
        whitening = fit_whitening(parts[0], MODES, len(x), columns, name, seed)
        model_units = [whitening.apply_(rows.copy()) for rows in model_units]
        volume = float(np.linalg.slogdet(whitening.colour)[1])
    trained_on, choosing, both, scored = model_units
    choice = max(REFERENCES, key=lambda c: mixture_of(c, trained_on, seed).score(choosing))
    if name == "arcs":
        choice = tuple(own[field] for field in REFERENCE_FIELDS)
    fields = {**COMMON, **own, **dict(zip(REFERENCE_FIELDS, choice, strict=True))}
    return {
        "mixture": {"nats": float(mixture.score(held_out)), "components": mixture.n_components},
        "kernel density": {
            "nats": float(kernel.score(held_out) / len(held_out)),
            "bandwidth": float(kernel.bandwidth_),
        },
        "NDSM's mixture": {
            "nats": float(mixture_of(choice, both, seed).score(scored)) - volume,
            "components": choice[0],
            "added": choice[2],
        },
        "NDSM": model_score(fields, "path", parts, seed),
        "VP + DSM": model_score({**fields, **VP}, "dsm", parts, seed),
    }


def main() -> None:
    """Print one line per table and method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=",".join([*TABLES, "arcs"]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Row]]] = {}
    for name in options.data.split(","):
        results[name] = [compare(name, seed) for seed in range(options.seeds)]
        for method in results[name][0]:
            rows = [result[method] for result in results[name]]
            values = [row["nats"] for row in rows]
            chosen = [", ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "nats") for row in rows]
            print(
                f"{name:9} {method:15} {statistics.mean(values):8.3f} ({min(values):.3f} to {max(values):.3f})  "
                + "; ".join(chosen),
                flush=True,
            )
        if options.out:
            with open(options.out, "w", encoding="utf-8") as f:
                json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
