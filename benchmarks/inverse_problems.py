"""Linear inverse problems on held-out images: half of the pixels masked, super-resolution, projections.

Both models have the same network and averaging: the mixture's Langevin noising with the path objective, and VP with
denoising score matching, trained as `samplers.py` does and in the same folder, or runs given by --ours and --vp. Each
reconstruction is drawn several times; PSNR (of the pixels' range) is given of single draws and of their mean. `prior` is the
mixture's own posterior given the measurements, exact.

The methods are the same for both: moment-matched guidance with the covariance of the modes (VP: of its one Gaussian) and as
many conjugate gradients, the mean projected, and x projected onto noised measurements (dissertation, algorithm 8.2); for VP also
moment-matched guidance by the network's Jacobian. Steps are exponential ones, for VP ancestral ones.

    python benchmarks/inverse_problems.py [digits|mnist] [--runs FOLDER] [--steps N] [--ours RUN --vp RUN] [--root data]
        [--images 64] [--draws 4] [--seeds 1] [--figure FILE] [--out FILE]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from samplers import add_models, models_of

from ndsm.core.rng import torch_stream
from ndsm.inference.guidance import (
    MomentMatched,
    Operator,
    Projected,
    average_pool,
    mask,
    projections,
    start_given,
)
from ndsm.inference.noised_references import draw_from_mixture
from ndsm.inference.projection import ProjectedSampler, noised_measurements
from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.samplers import integrate, reverse_times
from ndsm.workflows.trained_model import TrainedModel

PEAK = {"digits": 16.0, "mnist": 1.0}
"""The pixels' range."""
NOISE = 0.05
"""Standard deviation of the measurements' noise, in model units."""
EVALUATIONS = 100
METHODS = {
    "ndsm": ["moment-matched", "mean projected", "x projected"],
    "vp": ["moment-matched", "moment-matched, Jacobian", "mean projected", "x projected"],
}
ITERATIONS = {"modes": 6, "jacobian": 4}
"""Of conjugate gradients: with the network's Jacobian more make it worse."""


def problems(side: int) -> dict[str, Operator]:
    """The operators for square images of so many pixels a side."""
    pixels, factor = side**2, 2 if side < 16 else 4
    return {
        "half masked": mask(torch.arange(pixels) < pixels // 2),
        f"{factor}x super-resolution": average_pool(side, factor),
        "8 projections": projections(8, pixels),
    }


def psnr(images: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Mean peak signal-to-noise ratio of images (..., d), dB."""
    return float((10 * np.log10(peak**2 / ((images - truth) ** 2).mean(-1))).mean())


def figure(path: Path, truth: np.ndarray, found: dict[str, dict[str, np.ndarray]], peak: float) -> None:
    """Write a PNG: for each problem a row of the truth and one of each method's first draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, rows = 10, [("", "truth", truth)]
    rows += [(problem, name, x[0]) for problem, by in found.items() for name, x in by.items()]
    page = Figure(figsize=(8, 0.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(page)
    for axes, (problem, name, images) in zip(page.subplots(len(rows), 1), rows, strict=True):
        side = math.isqrt(images.shape[-1])
        strip = np.pad(
            images[:shown].reshape(-1, side, side), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan
        )
        axes.imshow(np.concatenate(list(strip), 1), cmap="gray_r", vmin=0, vmax=peak)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(f"{problem}\n{name}", rotation=0, ha="right", va="center", fontsize=8)
    page.savefig(path, dpi=110)


def drawn_by(
    process: Process, score: Score, operator: Operator, y: torch.Tensor, method: str, seed: int
) -> torch.Tensor:
    """A row for each row of measurements, by one method, (B, m) → (B, d)."""
    generator = torch_stream(seed, method)
    name = "ancestral" if process.transition is not None else "exponential"
    times, sampler, guided = reverse_times(process, name, EVALUATIONS, 1e-3), name, score
    if method == "x projected":
        measured, start = noised_measurements(process, operator, y, NOISE, times, generator)
        return integrate(
            process, score, times, start, generator, sampler=ProjectedSampler(sampler, operator, measured)
        )
    if method == "mean projected":
        guided = Projected(process, score, operator, y)
    else:
        moments: Literal["modes", "jacobian"] = "modes" if method == "moment-matched" else "jacobian"
        guided = MomentMatched(process, score, operator, y, NOISE, moments, iterations=ITERATIONS[moments])
    start = start_given(process, operator, y, NOISE, generator)
    return integrate(process, guided, times, start, generator, sampler=sampler)


def measured_once(
    options: argparse.Namespace, seed: int
) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """The table of one seed's models, the true images and the reconstructed ones by problem and method."""
    ours, vp, dataset = models_of(options, seed)
    models = {"ndsm": TrainedModel.of(ours), "vp": TrainedModel.of(vp)}
    mixture, peak = models["ndsm"].problem.process.mixture, PEAK[options.preset]
    assert mixture is not None
    clean = torch.from_numpy(dataset.validation[: options.images])
    truth, table = dataset.scaling.invert(clean.numpy()), []
    found: dict[str, dict[str, np.ndarray]] = {}
    for problem, operator in problems(math.isqrt(clean.shape[1])).items():
        generator = torch_stream(seed, problem)
        y = operator(clean)
        y = (y + NOISE * torch.randn(y.shape, generator=generator)).repeat(options.draws, 1)
        drawn = {"prior": draw_from_mixture(mixture, operator, y, NOISE, generator)}
        for name, made in models.items():
            for method in METHODS[name]:
                drawn[f"{name} {method}"] = drawn_by(
                    made.problem.process, cast(Score, made.network), operator, y, method, seed
                )
        found[problem] = {}
        for name, x in drawn.items():
            images = dataset.scaling.invert(x.numpy()).reshape(options.draws, *truth.shape)
            found[problem][name] = images
            row = {
                "problem": problem,
                "method": name,
                "seed": seed,
                "psnr": psnr(images, truth, peak),
                "psnr_mean": psnr(images.mean(0), truth, peak),
            }
            table.append(row)
            print(
                f"{seed} {problem:20} {name:25} draw {row['psnr']:.2f} dB, mean {row['psnr_mean']:.2f} dB",
                flush=True,
            )
    return table, truth, found


def main() -> None:
    """Train, reconstruct, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="digits", choices=PEAK)
    add_models(parser)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows, truth, found = measured_once(options, seed)
        table += rows
        if options.figure is not None and seed == 0:
            figure(options.figure, truth, found, PEAK[options.preset])
    if options.seeds > 1:
        for problem, method in dict.fromkeys((row["problem"], row["method"]) for row in table):
            both = [row for row in table if (row["problem"], row["method"]) == (problem, method)]
            single, mean = (np.mean([row[key] for row in both]) for key in ("psnr", "psnr_mean"))
            print(f"all {problem:20} {method:25} draw {single:.2f} dB, mean {mean:.2f} dB")
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
