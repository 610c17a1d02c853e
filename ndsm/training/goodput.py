"""Where the time of a run goes: the share of it in which it takes steps that last, and what takes the rest.

The parts add up to the time since the run was first started, less the time in which it was stopped in order:

    useful_seconds      of steps that a checkpoint or the run's end has kept
    stall_seconds     waiting for blocks
    pause_seconds     saving, reporting and evaluating between steps
    warm_up_seconds   filling the ring before the first step of each start
    restart_seconds   everything else: starting processes, waiting for room, and work that a crash has undone
"""

import time
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of all sittings, as far as a checkpoint knows of them."""

    stall_seconds: float = 0.0
    pause_seconds: float = 0.0
    warm_up_seconds: float = 0.0

    def plus(self, stall: float = 0.0, pause: float = 0.0, warm_up: float = 0.0) -> "TimeSpent":
        """These and more seconds."""
        return replace(
            self,
            stall_seconds=self.stall_seconds + stall,
            pause_seconds=self.pause_seconds + pause,
            warm_up_seconds=self.warm_up_seconds + warm_up,
        )


def goodput(spent: TimeSpent, seconds: float, begun: float, now: float | None = None) -> dict[str, float]:
    """Return `goodput`, which is `useful_seconds` over `wall_seconds`, and the parts of these.

    Args:
        seconds: of training, with stalls and pauses.
        begun: Unix time of the run's first start, later by the time in which it was stopped; 0 if it is not known.
        now: Unix time, the present if not given.
    """
    parts = asdict(spent)
    known = seconds + spent.warm_up_seconds
    # Clocks of machines differ, and a clock may be set back.
    wall = max(known, (time.time() if now is None else now) - begun) if begun else known
    step = max(0.0, seconds - spent.stall_seconds - spent.pause_seconds)
    found = {"wall_seconds": wall, "useful_seconds": step, **parts, "restart_seconds": wall - known}
    return {"goodput": step / max(wall, 1e-9), **{name: round(value, 3) for name, value in found.items()}}
