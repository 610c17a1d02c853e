"""Cases that only Python can ask for: each function gives arrays by name, which are compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cases import SMALL
from inputs import blobs

import ndsm
from ndsm.config import preset_names

X, LABELS = blobs()
PRESET = "table-langevin" if "table-langevin" in preset_names() else "vectors"
FEW = {**SMALL, "data.path": "X"}


def estimator(components: int = 3, /, fields: dict[str, Any] | None = None, **settings: Any) -> ndsm.NDSM:
    """One that trains in a moment."""
    config = ndsm.load_config(PRESET, {**FEW, **(fields or {})})
    return ndsm.NDSM(
        components, config=config, **{"objective": "ndsm", "random_state": 0, "device": "cpu", **settings}
    )


class Well:
    """exp(-V) with V(x) = (x² - 1)² in each of four coordinates."""

    def drift(self, y: torch.Tensor, t: float) -> torch.Tensor:
        return 4 * y * (y**2 - 1)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        grid = torch.linspace(-2, 2, 401)
        density = torch.exp(-((grid**2 - 1) ** 2))
        index = torch.multinomial(density, 4 * n, replacement=True, generator=generator)
        return grid[index].reshape(n, 4)


def own_drift() -> dict[str, Any]:
    out = {}
    for kind in ("ndsm", "ndsm-cv", "path", "sliced"):
        well = Well()
        process = ndsm.Langevin(drift=well.drift, prior=well, horizon=0.5)
        model = estimator(process=process, objective=kind).fit(X)
        out[kind] = model.sample(20)
    normal = ndsm.GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.ones(1))
    process = ndsm.Langevin(drift=lambda y, t: y, prior=normal, horizon=2.0)
    model = estimator(process=process).fit(X)
    return {**out, "rows": model.sample(20), "log-density": model.score_samples(X[:10])}


def own_drift_without_a_known_law() -> dict[str, Any]:
    well = Well()
    process = ndsm.Langevin(
        drift=lambda y, t: y - 1.2 * torch.tanh(y.roll(1, 1)), prior=well, horizon=0.5, stationary=False
    )
    return {"rows": estimator(process=process, objective="ndsm-cv").fit(X).sample(20)}


def objects_as_objectives() -> dict[str, Any]:
    kinds = ndsm.objectives
    objectives = {
        "NDSM": kinds.NDSM(),
        "NDSM, learned": kinds.NDSM(control_variate="learned"),
        "NDSM, closed form": kinds.NDSM(control_variate="closed-form"),
        "NDSM, values": kinds.NDSM(control_variate=(1.0, 0.5, 0.0)),
        "Path": kinds.Path(),
        "Path, no thinning": kinds.Path(thinning=0.0),
        "Path, learned": kinds.Path("learned"),
        "AntitheticNDSM": kinds.AntitheticNDSM(),
        "Sliced": kinds.Sliced(),
    }
    out = {name: estimator(objective=objective).fit(X).sample(20) for name, objective in objectives.items()}
    for kind in ("vp", "ve"):
        fields = {"process.kind": kind, "objective.kind": "dsm"}
        out[f"DSM, {kind}"] = estimator(fields=fields, objective=kinds.DSM()).fit(X).sample(20)
    return out


def labels_in_python() -> dict[str, Any]:
    model = estimator().fit(X, np.array(["low", "middle", "high"])[LABELS])
    rows, labels = model.sample(30, return_labels=True)
    return {
        "rows": rows,
        "labels": labels.astype("U"),
        "label": model.sample(20, label="high", guidance=2.0),
        "classes": np.array(model.classes_, dtype="U"),
        "log-density": model.score_samples(X[:10]),
    }


def missing_numbers_in_python() -> dict[str, Any]:
    holes = X[:20].copy()
    holes[::2, 1] = holes[1::3, 3] = np.nan
    out = {}
    for kind in ("langevin", "vp"):
        fields = {"process.kind": kind, "objective.kind": "ndsm" if kind == "langevin" else "dsm"}
        model = estimator(fields=fields, objective=fields["objective.kind"]).fit(X)
        out[kind] = model.impute(holes, 3, random_state=2)
        out[f"{kind}, given"] = model.sample(12, given={"x1": 0.3, "x2": 1.0}, random_state=3)
    return out


def reconstruction() -> dict[str, Any]:
    return _reconstructed({})


def reconstruction_vp() -> dict[str, Any]:
    return _reconstructed({"process.kind": "vp", "objective.kind": "dsm"})


def _reconstructed(fields: dict[str, Any]) -> dict[str, Any]:
    matrix = np.array([[1.0, 0.1, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0]])
    measured = X[:6] @ matrix.T
    out = {}
    for covariance in ("spherical", "full"):
        model = estimator(
            fields={**fields, "reference.covariance_type": covariance},
            objective=fields.get("objective.kind", "ndsm"),
            covariance_type=covariance,
        ).fit(X)
        for method in ("moment-matched", "projection"):
            for noise in (0.0, 0.2):
                drawn = model.reconstruct(
                    matrix, measured, noise=noise, n_draws=3, method=method, strength=0.9
                )
                out[f"{covariance}, {method}, noise {noise}"] = drawn
    return out


def denoising() -> dict[str, Any]:
    out = {}
    for kind in ("langevin", "vp"):
        fields = {"process.kind": kind, "objective.kind": "ndsm" if kind == "langevin" else "dsm"}
        model = estimator(fields=fields, objective=fields["objective.kind"]).fit(X)
        out |= _denoised(model, kind)
        out[f"{kind}, final draw"] = model.sample(20, final="draw")
    return out


def second_order_score() -> dict[str, Any]:
    model = estimator().fit(X).fit_second_order(X, rank=2, steps=10)
    return {**_denoised(model, "rank 2"), "final draw": model.sample(20, final="draw")}


def _denoised(model: ndsm.NDSM, name: str) -> dict[str, Any]:
    found = model.denoise(X[:8], 0.1, 2)
    parts = [getattr(found, part) for part in ("mean", "std", "factors")]
    return {f"{name}, {k}": part for k, part in enumerate(parts)}


def data_frames() -> dict[str, Any]:
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(n=(10 * abs(X[:, 2])).astype(int))
    model = estimator().fit(frame)
    rows = model.sample(20, random_state=1)
    return {name: rows[name].to_numpy() for name in rows} | {"log-density": model.score_samples(frame[:10])}


def mixture() -> dict[str, Any]:
    out = {}
    for covariance in ("spherical", "tied", "diag", "full"):
        found = estimator(covariance_type=covariance).fit(X).mixture_
        assert found is not None
        y = torch.from_numpy(X[:20].astype(np.float32))
        out |= {f"{covariance}, score": found.score(y), f"{covariance}, log-density": found.log_prob(y)}
        out[f"{covariance}, rows"] = found.sample(20, torch.Generator().manual_seed(0))
    return out


def opened_run() -> dict[str, Any]:
    estimator(objective="path").fit(X).save(Path("saved"))
    model = ndsm.load("saved")
    return {
        "rows": model.sample(20, random_state=1),
        "log-density": model.score_samples(X[:10]),
        "missing": model.impute(np.where(np.eye(4)[[0, 1, 2, 3]] > 0, np.nan, X[:4]), 2),
    }
