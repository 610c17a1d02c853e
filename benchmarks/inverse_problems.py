"""Linear inverse problems on held-out images: half of the pixels masked, super-resolution, projections.

Both models have the same network and averaging: the mixture's Langevin noising with the path objective, and VP with
denoising score matching, trained as `samplers.py` does and in the same folder, or runs given by --ours and --vp. Each
reconstruction is drawn several times; PSNR (of the pixels' range) is given of single draws and of their mean. `prior` is the
mixture's own posterior given the measurements, exact.

    python benchmarks/inverse_problems.py [digits|mnist] [--runs FOLDER] [--ours RUN --vp RUN] [--root data] [--images 40]
        [--draws 8] [--figure FILE] [--out FILE]
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from samplers import add_models, models_of

from ndsm.experiment import Generator
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

PEAK = {"digits": 16.0, "mnist": 1.0}
"""The pixels' range."""
NOISE = 0.05
"""Standard deviation of the measurements' noise, in model units."""
EVALUATIONS = 100
SAMPLER = {"ndsm": "exponential", "vp": "ancestral"}
ITERATIONS = {"ndsm": 6, "vp": 4}
"""Of conjugate gradients: VP has no modes, and with the network's Jacobian more make it worse."""


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


def main() -> None:
    """Train, reconstruct, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="digits", choices=PEAK)
    add_models(parser)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours, vp, dataset = models_of(options)
    generators = {"ndsm": Generator.of(ours), "vp": Generator.of(vp)}
    models = {name: (made.problem.process, made.model) for name, made in generators.items()}
    mixture, peak = models["ndsm"][0].mixture, PEAK[options.preset]
    assert mixture is not None
    clean = torch.from_numpy(dataset.validation[: options.images])
    truth, table = dataset.scaling.invert(clean.numpy()), []
    found: dict[str, dict[str, np.ndarray]] = {}
    for problem, operator in problems(math.isqrt(clean.shape[1])).items():
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
                "psnr": psnr(images, truth, peak),
                "psnr_mean": psnr(images.mean(0), truth, peak),
            }
            table.append(row)
            print(
                f"{problem:20} {name:20} draw {row['psnr']:.2f} dB, mean {row['psnr_mean']:.2f} dB",
                flush=True,
            )
    if options.figure is not None:
        figure(options.figure, truth, found, peak)
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
