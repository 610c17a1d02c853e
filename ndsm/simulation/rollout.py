"""Simulation of the forward process: trajectories in, recorded training examples out.

A **block** is a (rows, width) float32 array; each row is one recorded example (one trajectory at one of its
random times), laid out as a `RowLayout` says. A block is a pure function of its index: any simulator,
anywhere, makes the identical block again.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ndsm.core.hashing import fingerprint
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.processes.base import Process, require
from ndsm.processes.components import draw_by_weight
from ndsm.processes.integrators import INTEGRATORS, EulerMaruyama, IntegratorName
from ndsm.processes.langevin import mode_kernel
from ndsm.processes.modes import Modes
from ndsm.simulation.held_out_rows import draw_rows
from ndsm.simulation.path_tangents import MirroredPaths, make_chain
from ndsm.simulation.records import COMPONENT, LABEL, SCALARS, WHOLE_PATH, RowLayout

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RolloutSpec:
    """Settings of a simulator, without the data; passed by value to every actor.

    Args:
        process: the forward process, on `device`.
        times: grid t_0..t_n, (n + 1,).
        last_dt: Δt_N of the recorded example's own step, or None for the grid's step.
        times_per_path: recorded times of each trajectory, without repetition.
        paths: trajectories per block.
        layout: what is recorded.
        seed: the run's seed.
        rows_from: `path` simulates, `kernel` draws from the known transition law.
        jitter: each group of trajectories moves its grid by up to this fraction of a step.
        integrator: scheme of the grid's steps; an example's own step of size last_dt is Euler-Maruyama's, and so is the
            grid's step as one-step objectives record it, unless the modes are spherical (its std is a number).
    """

    process: Process
    times: np.ndarray
    last_dt: float | None
    times_per_path: int
    paths: int
    layout: RowLayout
    seed: int
    jitter: float = 0.0
    rows_from: str = "path"
    integrator: IntegratorName = "euler-maruyama"
    stamp: str = field(default="", compare=False)
    """Hash of data, mixture, process and grid; a block with another stamp belongs to another run."""
    labels: np.ndarray | None = field(default=None, compare=False)
    """(N,) int16, of the data's rows, if they are recorded."""
    held_out: float = 0.0
    """Share of the data's rows that no trajectory starts from, see `held_out_rows`."""
    drawn_modes: bool = False
    """Whether rows from the kernel of a mixture's process take a component that is drawn by their responsibilities, or the
    likeliest."""
    label_dropout: float = 0.0
    """Share of the recorded labels that are dropped."""
    device: torch.device = CPU
    """Device of the simulation."""

    @property
    def rows(self) -> int:
        """Rows per block."""
        return self.paths * self.times_per_path

    @property
    def block_bytes(self) -> int:
        """Size of a block's rows."""
        return self.rows * self.layout.width * 4

    def on(self, device: torch.device) -> "RolloutSpec":
        """The settings of a simulator on another device; the same object for the present one.

        Another kind of device draws and rounds other numbers, so its blocks carry a stamp of their own.
        """
        if device == self.device:
            return self
        stamp = fingerprint(self.stamp, device.type)
        return replace(self, process=self.process.to(device), device=device, stamp=stamp)


class Draws(NamedTuple):
    """Random number generators of a block."""

    choices: torch.Generator
    """Generator of rows, times and labels, on the CPU."""
    noise: torch.Generator
    """Generator of all other numbers, on the device of the simulation; `choices` if that is the CPU."""

    @classmethod
    def of(cls, spec: RolloutSpec, index: int) -> "Draws":
        """The streams of block number `index`."""
        choices = torch_stream(spec.seed, "rollout", index)
        if spec.device.type == "cpu":
            return cls(choices, choices)
        return cls(choices, torch_stream(spec.seed, "rollout-noise", index, device=spec.device))


def recorded_steps(paths: int, steps: int, per_path: int, generator: torch.Generator) -> list[Tensor]:
    """For each step 1..steps, the paths that record it: `per_path` distinct steps each, uniformly chosen.

    The k-th choice of every path lies in the k-th fraction of a random rotation of the steps, which makes
    the choices distinct and stratified without sorting `steps` keys per path.
    """
    shift = torch.randint(steps, (paths, 1), generator=generator)
    edges = (torch.arange(per_path + 1) * steps) // per_path
    low, size = edges[:-1], edges.diff()
    u = torch.rand(paths, per_path, generator=generator)
    step = ((low + (u * size).long().minimum(size - 1) + shift) % steps).flatten().numpy()
    # numpy sorts 16-bit integers by radix, twenty times faster than torch sorts.
    order = np.argsort(step.astype(np.uint16) if steps < 2**16 else step, kind="stable")
    path = torch.from_numpy(order // per_path)
    return list(path.split(np.bincount(step, minlength=steps).tolist()))


def shifted_grid(times: np.ndarray, shift: float) -> np.ndarray:
    """The grid moved by a fraction of a step: t_0, then G(n - 1 + shift) with G linear between the nodes.

    Args:
        times: t_0..t_n, (n + 1,).
        shift: in (0, 1]; 1 is the grid itself.
    """
    nodes = np.arange(len(times))
    return np.interp(np.concatenate([[0.0], nodes[1:] - 1 + shift]), nodes, times)


@torch.no_grad()
def rollout(spec: RolloutSpec, data: np.ndarray, index: int) -> np.ndarray:
    """Block number `index`: (spec.rows, spec.layout.width) float32.

    Trajectories start from rows of `data`, (N, d), drawn with replacement (Algorithm 1), those that are held out excepted. They are simulated
    in groups, each on its own shift of the time grid, so that all times occur and not just the grid's own. On a GPU
    the states stay there until the block is done.

    Raises:
        InputError: a trajectory left the finite numbers, or the drift returned a wrong shape or dtype.
    """
    draws = Draws.of(spec, index)
    if spec.rows_from == "kernel":
        return _draw(spec, data, index, draws)
    block = torch.empty(spec.rows, spec.layout.width, device=spec.device)
    start = draw_rows(len(data), spec.paths, spec.held_out, spec.seed, draws.choices)
    groups = np.array_split(start, max(1, round(spec.paths / group_size(spec.paths, data.shape[1]))))
    parts = block.split([len(group) * spec.times_per_path for group in groups])
    simulate = _simulate_with_tangents if "tangent" in spec.layout.records else _simulate
    process, axes = spec.process.along_axes() or (spec.process, None)
    inner = replace(spec, process=process)
    for group, part in zip(groups, parts, strict=True):
        shift = 1.0 - spec.jitter * float(torch.rand((), generator=draws.choices))
        y = torch.from_numpy(data[group].T.copy()).to(spec.device)
        named = spec.layout.split(part)
        if axes is not None:
            y = axes.T @ y
        paths = simulate(inner, y, shifted_grid(spec.times, shift), named, draws)
        if axes is not None:
            for vectors in (x for name, x in named.items() if name not in SCALARS):
                vectors.copy_(vectors @ axes.T)
        _record_labels(spec, group[paths.cpu().numpy()], named, draws)
        _check_finite(part, spec, index)
    return block.cpu().numpy()


def _draw(spec: RolloutSpec, data: np.ndarray, index: int, draws: Draws) -> np.ndarray:
    """Draw a block of rows from the process's kernel, at independent times with the density of the grid's."""
    rows = torch.empty(spec.rows, spec.layout.width, device=spec.device)
    start = draw_rows(len(data), spec.rows, spec.held_out, spec.seed, draws.choices)
    nodes = np.arange(len(spec.times))
    u = torch.rand(spec.rows, generator=draws.choices, dtype=torch.float64).numpy()
    least = spec.last_dt or float(spec.times[1])
    t = torch.from_numpy(np.maximum(np.interp(u * nodes[-1], nodes, spec.times), least)).float()
    t = t.to(spec.device)
    y, named = torch.from_numpy(data[start]).to(spec.device), spec.layout.split(rows)
    if (components := spec.process.components) is not None:
        k = components.draw(y, torch.rand(spec.rows, generator=draws.choices).to(spec.device))
        y = components.enter(y, k)
        named[COMPONENT].copy_(k)
    _fill(named, noised(spec, y, t, draws), draws)
    _record_labels(spec, start, named, draws)
    _check_finite(rows, spec, index)
    return rows.cpu().numpy()


def noised(spec: RolloutSpec, y: Tensor, t: Tensor, draws: Draws) -> dict[str, Tensor]:
    """Y_t = mean + std · noise of starts y (B, d) and times (B,) by the process's kernel, by name."""
    process = spec.process
    if process.hidden is None and not spec.drawn_modes:
        mean, std = process.kernel(y, t)
        return {"mean": mean, "noise": torch.empty_like(y).normal_(generator=draws.noise), "t": t, "std": std}
    uniform = torch.rand(len(y), generator=draws.choices).to(y)
    noise = torch.empty_like(y).normal_(generator=draws.noise)
    if process.hidden is not None:
        return process.hidden.noised(y, t, uniform, noise)
    modes = require(process, "modes", "mixture-dsm")
    mean, std = mode_kernel(modes, y, t, draw_by_weight(modes.responsibilities(y), uniform))
    return {"mean": mean, "noise": noise, "t": t, "std": std}


def _fill(out: dict[str, Tensor], values: dict[str, Tensor], draws: Draws) -> None:
    """Copy the values to where they are recorded, and draw a probe if there is to be one."""
    for name, value in values.items():
        out[name].copy_(value)
    if "probe" in out and "probe" not in values:
        probe = out["probe"]
        probe.copy_(torch.randn(probe.shape, generator=draws.noise, device=probe.device))


def _record_labels(spec: RolloutSpec, start: np.ndarray, out: dict[str, Tensor], draws: Draws) -> None:
    """Write the labels of the rows that the recorded examples started from, some dropped. Without labels return at once."""
    if LABEL not in out:
        return
    if spec.labels is None:
        raise InputError("network.classes: expected data with labels, found none")
    labels = torch.from_numpy(spec.labels[start]).float()
    kept = torch.rand(len(labels), generator=draws.choices) >= spec.label_dropout
    out[LABEL].copy_(torch.where(kept, labels, -1.0))


def group_size(paths: int, dimension: int) -> int:
    """Trajectories simulated at once: few enough to stay in the cache, enough that an operation on them takes
    longer than its dispatch; a block gets at least two grids."""
    return max(256, min(2**17 // (dimension + 6), paths // 2))


def _simulate(
    spec: RolloutSpec, y: Tensor, times: np.ndarray, out: dict[str, Tensor], draws: Draws
) -> Tensor:
    """Run the columns y, (d, B), along the grid and write their recorded examples to `out`; the path of each.

    At a recorded step the example's last step, of size Δt_N, is taken from Y_{N-1} in addition to the grid's step
    (end of section 3.1), so one evaluation of the drift serves both.
    """
    d, paths = y.shape
    recording = recorded_steps(paths, len(times) - 1, spec.times_per_path, draws.choices)
    recording = [recorded.to(y.device) for recorded in recording]
    counts = torch.tensor([len(recorded) for recorded in recording])
    h = np.diff(times)
    recorded_dt = h if spec.last_dt is None else np.full_like(h, spec.last_dt)
    # Columns, as the state: one transposed copy at the end is cheaper than one at every step.
    mean = y.new_empty(d, int(counts.sum()))
    noise = torch.empty_like(mean)
    if spec.last_dt is not None:
        noise.normal_(generator=draws.noise)
    modes = None if spec.integrator == "euler-maruyama" else Modes(spec.process.mixture, y)
    integrator = INTEGRATORS[spec.integrator](spec.process, modes)  # type: ignore[arg-type]
    exact = modes is not None and modes.isotropic and spec.last_dt is None
    tables = integrator.coefficients(h, times[:-1]) if exact else None
    stds, z, position = [], torch.empty_like(y), 0
    for n, recorded in enumerate(recording):
        t = float(times[n])
        f = spec.process.drift_columns(y, t)
        z.normal_(generator=draws.noise)
        if m := len(recorded):
            here = slice(position, position + m)
            chosen, slope = y.index_select(1, recorded), f.index_select(1, recorded)
            if tables is None:
                torch.sub(chosen, slope, alpha=float(recorded_dt[n]), out=mean[:, here])
            else:
                assert modes is not None
                a, s = (table[n][:, modes.column[recorded]] for table in tables)
                torch.addcmul(chosen, a, slope, value=-1, out=mean[:, here])
                stds.append(s[0])
            if spec.last_dt is None:
                noise[:, here] = z.index_select(1, recorded)
            position += m
        integrator.advance(y, f, z, float(h[n]), t)
    sigma = np.array([spec.process.diffusion(float(t)) for t in times[:-1]])
    std = torch.from_numpy(sigma * np.sqrt(recorded_dt)).repeat_interleave(counts)
    values = {
        "mean": mean.T,
        "noise": noise.T,
        "t": torch.from_numpy(times[:-1] + recorded_dt).repeat_interleave(counts),
        "std": torch.cat(stds) if stds else std,
    }
    _fill(out, values, draws)
    return torch.cat(recording)


def _simulate_with_tangents(
    spec: RolloutSpec, y: Tensor, times: np.ndarray, out: dict[str, Tensor], draws: Draws
) -> Tensor:
    """As `_simulate`, recording what the path objective needs (`ndsm.simulation.path_tangents`).

    The starts of the recorded steps are kept on the way, and all these steps are taken together afterwards.
    """
    process = spec.process
    recording = recorded_steps(y.shape[1], len(times) - 1, spec.times_per_path, draws.choices)
    recording = [recorded.to(y.device) for recorded in recording]
    moving = MirroredPaths(process, y, draws.noise)
    modes, h, t = moving.modes, np.diff(times), times[:-1]
    chain = recorded_chain = make_chain(
        modes.variance, *INTEGRATORS[spec.integrator](process, modes).coefficients(h, t)
    )
    recorded_dt = h if spec.last_dt is None else np.full_like(h, spec.last_dt)
    if spec.last_dt is not None:
        coefficients = EulerMaruyama(process, modes).coefficients(recorded_dt, t)
        recorded_chain = make_chain(modes.variance, *coefficients, before=chain.before)
    starts, recorded_z, z = [], [], torch.empty_like(y)
    for n, recorded in enumerate(recording):
        moving.look(float(t[n]))
        z.normal_(generator=draws.noise)
        if len(recorded):
            starts.append(moving.starts(recorded))
            if spec.last_dt is None:
                recorded_z.append(z.index_select(1, recorded))
        moving.advance(chain, n, z)
    paths = torch.cat(recording)
    noise = (
        torch.cat(recorded_z, 1)
        if recorded_z
        else y.new_empty(len(y), len(paths)).normal_(generator=draws.noise)
    )
    steps = torch.arange(len(h)).repeat_interleave(torch.tensor([len(recorded) for recorded in recording]))
    *columns, std = moving.recorded(recorded_chain, steps.to(y.device), paths, starts, noise)
    chance = torch.rand(len(paths), generator=draws.noise, device=y.device)
    values = (*columns, torch.from_numpy(t + recorded_dt)[steps], std, chance)
    for name, value in zip(WHOLE_PATH, values, strict=True):
        out[name].copy_(value if name in SCALARS else value.T)
    return paths


def _check_finite(rows: Tensor, spec: RolloutSpec, index: int) -> None:
    # A finite sum shows that all rows are finite; the sum of finite rows may overflow.
    if math.isfinite(float(rows.sum())) or bool((finite := torch.isfinite(rows).all(1)).all()):
        return
    bad = int((~finite).nonzero()[0])
    t = float(spec.layout.split(rows)["t"][bad])
    raise InputError(
        f"simulation: expected finite trajectories, found NaN or infinity in row {bad} of block {index} at t = {t:g}; "
        "check the drift, or use smaller steps"
    )
