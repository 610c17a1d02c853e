"""Linear inverse problems on held-out digits: half of the pixels masked, super-resolution, projections.

Both models have the same network, steps and averaging: the mixture's Langevin noising with the path objective, and VP with
denoising score matching. Each reconstruction is drawn several times; PSNR (peak 16, the pixels' range) is given of single
draws and of their mean. `prior` is the mixture's own posterior given the measurements, exact.

    python benchmarks/inverse_problems.py [--steps 3000] [--images 40] [--draws 8] [--figure FILE] [--out FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsm.config import load_config
from ndsm.data import Dataset, load
from ndsm.experiment import build_problem, training_in_memory
from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.samplers import carry, reverse_times
from ndsm.samplers.guidance import (
    MomentMatched,
    Operator,
    Projected,
    average_pool,
    draw_from_mixture,
    mask,
    projections,
    start_given,
)
from ndsm.training import fit_mixture

PEAK = 16.0
NOISE = 0.05
"""Standard deviation of the measurements' noise, in model units."""
EVALUATIONS = 100
MODELS: dict[str, dict[str, Any]] = {
    "ndsm": {},
    "vp": {
        "process.kind": "vp",
        "process.horizon": 1.0,
        "process.integrator": "euler-maruyama",
        "objective.kind": "dsm",
        "objective.epsilon": {},
        "train.times_per_path": 1,
        "sample.sampler": "em",
    },
}
SAMPLER = {"ndsm": "exponential", "vp": "ancestral"}
ITERATIONS = {"ndsm": 6, "vp": 4}
"""Of conjugate gradients: VP has no modes, and with the network's Jacobian more make it worse."""
PROBLEMS: dict[str, Operator] = {
    "half masked": mask(torch.arange(64) < 32),
    "2x super-resolution": average_pool(8, 2),
    "8 projections": projections(8, 64),
}


def trained(dataset: Dataset, steps: int, fields: dict[str, Any]) -> tuple[Process, Score]:
    """Process and averaged score of the digits preset with other fields."""
    config = load_config("digits", {"train.steps": steps, **fields})
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    with training_in_memory(problem, dataset.train) as (trainer, records):
        for _ in records:
            pass
    return problem.process, trainer.ema.eval()


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio of images (..., d), dB."""
    return float((10 * np.log10(PEAK**2 / ((images - truth) ** 2).mean(-1))).mean())


def figure(path: Path, truth: np.ndarray, found: dict[str, dict[str, np.ndarray]]) -> None:
    """Write a PNG: for each problem a row of the truth and one of each method's first draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, rows = 10, [("", "truth", truth)]
    rows += [(problem, name, x[0]) for problem, by in found.items() for name, x in by.items()]
    page = Figure(figsize=(8, 0.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(page)
    for axes, (problem, name, images) in zip(page.subplots(len(rows), 1), rows, strict=True):
        strip = np.pad(images[:shown].reshape(-1, 8, 8), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        axes.imshow(np.concatenate(list(strip), 1), cmap="gray_r", vmin=0, vmax=PEAK)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(f"{problem}\n{name}", rotation=0, ha="right", va="center", fontsize=8)
    page.savefig(path, dpi=110)


def main() -> None:
    """Train, reconstruct, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(load_config("digits").data, 0)
    models = {name: trained(dataset, options.steps, fields) for name, fields in MODELS.items()}
    mixture = models["ndsm"][0].mixture
    assert mixture is not None
    clean = torch.from_numpy(dataset.validation[: options.images])
    truth, table = dataset.scaling.invert(clean.numpy()), []
    found: dict[str, dict[str, np.ndarray]] = {}
    for problem, operator in PROBLEMS.items():
        generator = torch.Generator().manual_seed(0)
        y = operator(clean)
        y = (y + NOISE * torch.randn(y.shape, generator=generator)).repeat(options.draws, 1)
        drawn = {"prior": draw_from_mixture(mixture, operator, y, NOISE, generator)}
        for name, (process, score) in models.items():
            guided = {
                "moment-matched": MomentMatched(
                    process, score, operator, y, NOISE, iterations=ITERATIONS[name]
                ),
                "projected": Projected(process, score, operator, y),
            }
            for kind, wrapped in guided.items():
                times = reverse_times(process, SAMPLER[name], EVALUATIONS, 1e-3)
                start_from = start_given(process, operator, y, NOISE, generator)
                drawn[f"{name} {kind}"] = carry(
                    process, wrapped, times, start_from, generator, sampler=SAMPLER[name]
                )
        found[problem] = {}
        for name, x in drawn.items():
            images = dataset.scaling.invert(x.numpy()).reshape(options.draws, *truth.shape)
            found[problem][name] = images
            row = {
                "problem": problem,
                "method": name,
                "psnr": psnr(images, truth),
                "psnr_mean": psnr(images.mean(0), truth),
            }
            table.append(row)
            print(
                f"{problem:20} {name:20} draw {row['psnr']:.2f} dB, mean {row['psnr_mean']:.2f} dB",
                flush=True,
            )
    if options.figure is not None:
        figure(options.figure, truth, found)
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
