"""Second-order scores in use: how sure denoising is, and a final step that draws.

`coverage`: held-out digits are noised by each model's own process, and the share of clean numbers within the 90 % interval of
their posterior is counted: mean ± 1.645 standard deviations by a second-order score that is trained (`ndsm.inference.second_order`) or by
the network's Jacobian; and between the 5 % and 95 % quantiles of draws from the posterior that is exact if the data are the mixture
(its Langevin process is reversible: the law of Y_0 given Y_t = x is that of Y_t given Y_0 = x). Models: the mixture's Langevin noising
with the path objective, and VP with denoising score matching, noised to the same σ/α.

`final`: sliced Wasserstein-2 of generated rows with the mean as the last step and with a draw.

    python benchmarks/second_order.py coverage [--steps 2000] [--second-steps 2000] [--models ndsm,vp] [--runs FOLDER] [--figure FILE]
        [--out FILE]
    python benchmarks/second_order.py final [toy-arcs|digits] [--steps 2000] [--second-steps 2000] [--seeds 3] [--n 5000] [--runs FOLDER]
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from samplers import VP, trained
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.data import Dataset, load
from ndsm.inference.final_step import FinalDraw
from ndsm.inference.noised_references import noised
from ndsm.inference.posterior import Posterior
from ndsm.inference.second_order import SecondOrderScore, fit_second_order
from ndsm.metrics import evaluate
from ndsm.objectives import Score
from ndsm.processes import Process, geometric_grid
from ndsm.processes.transitions import kernel_of
from ndsm.runs import Run
from ndsm.samplers import SAMPLERS, generate, reverse_times
from ndsm.workflows.trained_model import TrainedModel

LEVELS = (0.2, 0.5, 1.0)
"""Noise σ/α in a typical mode, in model units."""
NOMINAL = np.array([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
DRAWS = 100
"""From the mixture's posterior, of each noisy row."""
NOISING_STEPS = 15
RANK = 4
SAMPLER_STEPS = (("exponential", 60), ("flow", 10))
LAST = (1e-3, 1e-2)
"""Times of generation's last step."""


def time_of(process: Process, level: float) -> float:
    """The time at which σ/α is `level`, on average over axes and modes."""
    kernel = kernel_of(process, "second_order.py")
    times = np.geomspace(1e-4, 0.999, 4000) * process.horizon
    found = [float((kernel.std(t) * (-kernel.log_alpha(t)).exp()).mean()) for t in times]
    return float(np.interp(level, found, times))


def trained_second_order(run: Run, rows: np.ndarray, steps: int) -> SecondOrderScore:
    """A second-order score of a run's model."""
    model, seed = TrainedModel.of(run), run.config().train.seed
    problem = model.problem
    score = cast(Score, model.network)
    return fit_second_order(
        score, problem.process, rows, problem.end_dt, rank=RANK, steps=steps, width=256, seed=seed
    )


def measures(clean: Tensor, mean: Tensor, low: Tensor, high: Tensor) -> dict[str, Any]:
    """RMSE of the mean and, for each nominal coverage (m, n, d), the share of clean numbers (n, d) within and the 90 % width."""
    within = ((clean >= low) & (clean <= high)).float().mean((1, 2))
    at = int(np.argmin(np.abs(NOMINAL - 0.9)))
    return {
        "rmse": float((mean - clean).square().mean().sqrt()),
        "coverage": float(within[at]),
        "width": float((high - low)[at].mean()),
        "curve": within.tolist(),
    }


def normal_intervals(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of normal intervals of each nominal coverage, (m, n, d) each."""
    z = torch.distributions.Normal(0.0, 1.0).icdf(torch.from_numpy(0.5 + NOMINAL / 2).float())
    half = z[:, None, None] * std
    return mean - half, mean + half


def of_model(run: Run, dataset: Dataset, steps: int) -> Iterator[dict[str, Any]]:
    """Measures of one model's posteriors at each level."""
    model = TrainedModel.of(run)
    process, score = model.problem.process, cast(Score, model.network)
    clean = torch.from_numpy(dataset.validation)
    head = trained_second_order(run, dataset.train, steps)
    ways = {
        "trained": Posterior(process, score, head),
        "Jacobian": Posterior(process, score),
    }
    for level in LEVELS:
        t, stream = time_of(process, level), torch_stream(0, "noising")

        def draw(rows: Tensor, stream: torch.Generator = stream) -> Tensor:
            return torch.randn(rows.shape, generator=stream)

        linear = run.config().process.kind != "langevin"
        times = geometric_grid(t, NOISING_STEPS, t / NOISING_STEPS / 10)
        if linear:
            mean, std = process.kernel(clean, torch.full((len(clean),), t))
            noisy = mean + std[:, None] * draw(clean)
        else:
            noisy = noised(process, clean, times, lambda: draw(clean))[-1]
        setting = {"level": level, "t": t}
        for name, posterior in ways.items():
            with torch.no_grad():
                m = posterior.mean(noisy, t)
            std = posterior.variance(noisy, t).sqrt()
            yield {**setting, "way": name, **measures(clean, m, *normal_intervals(m, std))}
        if not linear:
            repeated = noisy.repeat(DRAWS, 1)
            end = noised(process, repeated, times, lambda x=repeated: draw(x))[-1]
            draws = end.reshape(DRAWS, *noisy.shape)
            low, high = draws.quantile(
                torch.from_numpy(0.5 + np.stack([-NOMINAL, NOMINAL]) / 2).float().flatten(), 0
            ).chunk(2)
            yield {**setting, "way": "mixture, exact", **measures(clean, draws.mean(0), low, high)}


def coverage(options: argparse.Namespace) -> None:
    """Print, and draw, how often intervals hold clean digits."""
    names = options.models.split(",")
    rows: list[dict[str, Any]] = []
    if options.out and options.out.exists():
        rows = [row for row in json.loads(options.out.read_text()) if row["model"] not in names]
    for name in names:
        fields = {**(VP if name == "vp" else {}), "train.steps": options.steps}
        run = trained("digits", fields, options.runs, f"digits-{name}", "data")
        dataset = load(run.config().data, run.config().train.seed, run.scaling())
        for row in of_model(run, dataset, options.second_steps):
            rows.append({"model": name, **row})
            print(
                f"{name:5s} {row['way']:15s} noise {row['level']:4.2f} (t = {row['t']:.4f})  coverage {row['coverage']:.3f}"
                f"  width {row['width']:.3f}  rmse {row['rmse']:.3f}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if options.figure:
        figure(rows, options.figure)


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG: share of clean numbers within their interval against its nominal coverage, a panel for each level."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {"trained": "-", "Jacobian": "--", "mixture, exact": ":"}
    colours = {"ndsm": "C0", "vp": "C1"}
    drawing, panels = plt.subplots(1, len(LEVELS), figsize=(11, 3.8), sharey=True)
    for panel, level in zip(panels, LEVELS, strict=True):
        panel.plot([0, 1], [0, 1], color="0.7", lw=1)
        for row in rows:
            if row["level"] == level:
                exact = row["way"] == "mixture, exact"
                panel.plot(
                    NOMINAL, row["curve"], styles[row["way"]], color="k" if exact else colours[row["model"]],
                    label=row["way"] if exact else f"{row['model']}, {row['way']}",
                )  # fmt: skip
        panel.set(title=f"noise {level:g}", xlabel="nominal coverage")
    panels[0].set_ylabel("share of held-out numbers within")
    panels[-1].legend(fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path, dpi=100)


def final(options: argparse.Namespace) -> None:
    """Print the distance of generated rows by sampler, time and kind of the last step."""
    distances: dict[tuple[Any, ...], list[float]] = {}
    for seed in range(options.seeds):
        fields = {"train.steps": options.steps, "train.seed": seed}
        run = trained(options.preset, fields, options.runs, f"{options.preset}-{seed}", "data")
        dataset = load(run.config().data, seed, run.scaling())
        model = TrainedModel.of(run)
        process, score = model.problem.process, cast(Score, model.network)
        head = trained_second_order(run, dataset.train, options.second_steps)
        for sampler, evaluations in SAMPLER_STEPS:
            ways = {
                "mean": SAMPLERS[sampler],
                "draw, trained": FinalDraw(SAMPLERS[sampler], head),
                "draw, Jacobian": FinalDraw(SAMPLERS[sampler]),
            }
            for end in LAST:
                for name, way in ways.items():
                    times = reverse_times(process, way, evaluations, end)
                    parts = generate(process, score, times, options.n, seed, sampler=way)
                    metrics = evaluate(dataset, torch.cat(list(parts)).numpy(), None, seed)
                    distances.setdefault((sampler, evaluations, end, name), []).append(metrics["swd2"])
                    extra = f"  off support {metrics['off_support']:.3f}" if "off_support" in metrics else ""
                    print(
                        f"seed {seed} {sampler} {evaluations} last {end:g} {name:15s} swd2 {metrics['swd2']:.4f}{extra}",
                        flush=True,
                    )
    print("means (least-greatest):")
    for key, values in distances.items():
        print(*key, f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})")


def main() -> None:
    """One of the two measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["coverage", "final"])
    parser.add_argument("preset", nargs="?", default="toy-arcs", choices=["toy-arcs", "digits"])
    parser.add_argument("--steps", type=int, default=2000, help="of the score's training")
    parser.add_argument("--second-steps", type=int, default=2000, help="of the second-order score's")
    parser.add_argument(
        "--models", default="ndsm,vp", help="whose coverage; others are kept from --out, if it is there"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=5000, help="generated rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/second-order"), help="folder of the models")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"coverage": coverage, "final": final}[options.what](options)


if __name__ == "__main__":
    main()
