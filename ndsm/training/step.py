"""One optimiser step, the same on a laptop and in a Ray worker."""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ndsm.config import Train
from ndsm.core.optimizer import Adam
from ndsm.objectives import Epsilon, GradientMoments, Objective, Score, gradient_moments
from ndsm.simulation import RowLayout
from ndsm.training.best_weights import BestWeights
from ndsm.training.weighting import Weight


class Trainer:
    """Model, optimiser and moving average, advanced by `step`.

    Args:
        model: the score model; what it becomes when wrapped for data-parallel training is `wrapped`.
        objective: loss per row.
        epsilon: factor of the objective's control variate.
        every: steps between updates of an ε that learns (N_CV).
        layout: how a row is laid out.
        config: learning rate, schedule, EMA, clipping, steps, micro-batches.
        weight: of an example's loss at its time; None is 1.
        wrapped: the module that is called and differentiated, if not `model` itself; its backward pass leaves the
            mean over all workers in the gradients, except under its `no_sync()`.
        reduce: sums a tensor over all workers.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        layout: RowLayout,
        config: Train,
        weight: Weight | None,
        epsilon: Epsilon,
        every: int = 20,
        wrapped: nn.Module | None = None,
        reduce: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.model, self._wrapped = model, wrapped or model
        self._objective, self._layout = objective, layout
        self._config, self._weight = config, weight or torch.ones_like
        self.epsilon, self._every, self._reduce = epsilon, every, reduce
        self.optimizer = Adam(model.parameters(), lr=config.lr, fused=True)
        self.ema = copy.deepcopy(model).requires_grad_(False)
        """The same model with averaged weights."""
        self._averages: list[Tensor] = list(self.ema.parameters())
        self._parameters: list[Tensor] = list(model.parameters())
        self.steps = 0
        """Steps taken, or left out by early stopping."""
        self.best = BestWeights()
        """Of a training with `train.patience`."""

    @property
    def device(self) -> torch.device:
        """Device of the model, and of the rows that it is given."""
        return self._parameters[0].device

    @property
    def done(self) -> bool:
        """Whether `train.steps` are taken, or those that are left were left out."""
        return self.steps >= self._config.steps

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `train.patience` held-out losses were not below the smallest."""
        return 0 < self._config.patience <= self.best.checks

    def compare(self, held_out_loss: float) -> None:
        """Keep the averaged weights, whose held-out loss is given, if it is the smallest so far."""
        self.best.compare(held_out_loss, self.steps, self.ema)

    def finish(self) -> None:
        """End the training: the averaged weights are the best ones, and the steps that are left are left out."""
        if self.best.weights:
            self.ema.load_state_dict(self.best.weights)
            # A run that is continued has all of its patience again.
            self.best.checks = 0
        self.steps = max(self.steps, self._config.steps)

    def step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step on this worker's rows (B, width).

        Returns:
            mean weighted loss of these rows; norm of the gradient over all workers' rows, before clipping.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.steps)
        named = self._layout.split(rows)
        if self.epsilon.learns and self.steps % self._every == 0:
            self._update_epsilon(named)
        loss = self._backward(named)
        # After the last backward pass the gradients are averaged over the workers: clip them only then.
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.grad_clip)
        self.optimizer.step()
        self._average()
        self.steps += 1
        return loss, norm.detach()

    def _backward(self, rows: dict[str, Tensor]) -> Tensor:
        """Leave the gradient of the mean loss in the parameters, one micro-batch at a time; that loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=rows["t"].device)
        *earlier, last = self.micro_batches(rows)
        # Workers exchange gradients once per step, with the last micro-batch.
        with getattr(self._wrapped, "no_sync", nullcontext)():
            for part in earlier:
                total += self._backward_part(part, len(rows["t"]))
        return total + self._backward_part(last, len(rows["t"]))

    def _backward_part(self, part: dict[str, Tensor], rows: int) -> Tensor:
        """Add a micro-batch's share of the gradient of the mean loss over `rows` rows; its share of that loss."""
        loss = self.loss(part) * (len(part["t"]) / rows)
        loss.backward()
        return loss.detach()

    def micro_batches(self, rows: dict[str, Tensor], count: int | None = None) -> list[dict[str, Tensor]]:
        """The rows in order, in so many parts, `accumulate` if not given."""
        parts = zip(*(value.chunk(count or self._config.accumulate) for value in rows.values()), strict=True)
        return [dict(zip(rows, part, strict=True)) for part in parts]

    def loss(self, rows: dict[str, Tensor]) -> Tensor:
        """Mean weighted loss of rows by name, a scalar to differentiate."""
        return self.row_losses(rows).mean()

    def row_losses(self, rows: dict[str, Tensor], model: nn.Module | None = None) -> Tensor:
        """Weighted loss of each row, (B,), by the model that is trained or by another one."""
        total = self._objective.combined(model or self._wrapped, rows, self.epsilon(rows["t"]))
        return total * self._weight(rows["t"])

    def _update_epsilon(self, rows: dict[str, Tensor]) -> None:
        """Let ε learn from the per-sample gradients of this batch (Algorithm 3, lines 6-8)."""
        moments = self.gradient_moments(rows)
        self.epsilon.update(rows["t"], moments.linear, moments.cv_cv, self._reduce)

    def gradient_moments(self, rows: dict[str, Tensor], parts: int | None = None) -> GradientMoments:
        """Moments of the per-sample gradients of the weighted losses on rows by name, ḡ over all workers.

        Args:
            parts: how many parts the rows are taken in, `accumulate` if not given; more of them take less memory, and
                longer.
        """

        def losses(part: dict[str, Tensor], score: Score) -> tuple[Tensor, Tensor | None]:
            weight = self._weight(part["t"])
            per_row = self._objective(score, part)
            cv = per_row.control_variate
            return per_row.base * weight, None if cv is None else cv * weight

        taken = [partial(losses, part) for part in self.micro_batches(rows, parts)]
        with getattr(self.model, "plain", nullcontext)():
            return gradient_moments(self.model, taken, self._reduce)

    def learning_rate(self, step: int) -> float:
        """Learning rate of step number `step`."""
        if self._config.lr_schedule == "constant":
            return self._config.lr
        return 0.5 * self._config.lr * (1 + math.cos(math.pi * min(1.0, step / self._config.steps)))

    @torch.no_grad()
    def _average(self) -> None:
        # A young average forgets faster: it should not remember the initial weights for 1/(1 - decay) steps.
        decay = min(self._config.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything `load_state` needs, in tensors and plain Python types."""
        return {
            "steps": self.steps,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epsilon": self.epsilon.state(),
            **({"best": self.best.state()} if self.best.weights else {}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the next step is bitwise the one that would have followed."""
        self.steps = int(state["steps"])
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epsilon.load_state(state["epsilon"])
        if "best" in state:
            self.best.load_state(state["best"])
