"""The search on Ray Tune: trials are proposed, run and stopped early.

The search's state is its trials' files. A driver that is started again, after whatever end, tells the sampler and the
stopping rule what those say and goes on: finished trials are left alone, begun ones resume from their checkpoints, and
nothing is read from Ray's own files.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ray import tune

from ndsm.core.interrupt import Terminated, on_interrupt
from ndsm.core.progress import say
from tuning.folder import SearchFolder, TrialRecord
from tuning.proposals import Plan, Proposals
from tuning.space import Space
from tuning.stopping import stopping_rule, ticked
from tuning.trial import Setting, run_trial


def trial_function(config: dict[str, Any], setting: Setting, space: Space) -> None:
    """Train a trial in its own process; called by Ray Tune."""
    import torch

    torch.set_num_threads(1)
    number = config["number"]
    trial = setting.search.trial(number)
    params = {key: value for key, value in config.items() if key != "number"}
    chosen = space.base if number == 0 else space.config(params)
    run_trial(setting, trial, chosen, lambda line: tune.report(ticked(line)))


def run_search(
    plan: Plan,
    setting: Setting,
    concurrent: int,
    resources: dict[str, float],
    on_end: Callable[[TrialRecord], None],
) -> None:
    """Run trials on the cluster this process is connected to, until enough have ended or a stop was asked for.

    Args:
        concurrent: trials at once.
        resources: of one, as Tune counts.
        on_end: called with the record of each trial that ended.
    """
    folder = setting.search
    # Trials see relative paths as this process does, report what they have, and our handler is asked on Ctrl-C.
    function = tune.with_parameters(trial_function, setting=setting, space=plan.space)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        tune_config=tune.TuneConfig(
            search_alg=Proposals(plan, folder, on_end),
            scheduler=stopping_rule(plan.stop if plan.search != "pareto" else "none", folder),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            # Starting a process takes seconds, more than a small trial.
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="ray",
            **folder.tune_storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    # Tune prints a heading and more even when it is to be silent.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        tuner.fit()


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']:04d}"


TUNE_ENVIRONMENT = {
    # Our own handler lets trials save; Tune's would stop them where they are.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths of the configuration mean the same in trials as here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # An invalid trial has no score.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def gently_interrupted(folder: SearchFolder) -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C asks all trials to save and stop, the second ends at once."""

    def ask() -> bool:
        folder.stop_file.touch()
        for record in folder.records():
            if record.status == "running":
                folder.trial(record.number).ask_to_stop()
        return True

    def saved() -> bool:
        return not folder.trains()

    with on_interrupt(ask, "saving the trials that run", sys.stdout, saved) as interrupted:
        try:
            yield interrupted
        except Terminated:
            say("stopped; the same command goes on from here")
            raise
    # After the second Ctrl-C it stays until the next start: trials that still save have yet to find it.
    folder.stop_file.unlink(missing_ok=True)
