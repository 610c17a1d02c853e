"""The weights that a training with early stopping keeps."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class BestWeights:
    """The averaged weights with the smallest held-out loss so far."""

    loss: float = math.inf
    step: int = 0
    last: float = math.inf
    """The last held-out loss."""
    checks: int = 0
    """Held-out losses since then."""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def compare(self, loss: float, step: int, model: nn.Module) -> None:
        """Keep the weights of a model, whose held-out loss at this step is given, if it is the smallest so far."""
        self.checks, self.last = self.checks + 1, loss
        if loss < self.loss:
            self.loss, self.step, self.checks = loss, step, 0
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything `load_state` needs, in tensors and plain Python types."""
        return vars(self).copy()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.loss, self.step, self.checks = float(state["loss"]), int(state["step"]), int(state["checks"])
        self.last = float(state["last"])
        self.weights = state["weights"]
