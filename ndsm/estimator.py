"""The front door in Python: a scikit-learn estimator that trains in this process, without Ray."""

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import nn

from ndsm.config import IMAGES, Config, build_config, flat, merge, read_preset
from ndsm.config.roles import names_of
from ndsm.core.global_state import usable_threads
from ndsm.core.rng import RandomState, draw_seed
from ndsm.data import Labels
from ndsm.data.frames import LIBRARIES, Frame, chosen_library, is_frame, numbers
from ndsm.errors import InputError
from ndsm.inference.final_step import FinalDraw
from ndsm.inference.guidance import Operator
from ndsm.inference.reconstruction import Method
from ndsm.mixture import GaussianMixture
from ndsm.objectives import Objective
from ndsm.processes import Langevin
from ndsm.report.evaluation import Evaluation
from ndsm.runs import Run
from ndsm.samplers import configured_sampler
from ndsm.workflows.arrays import array_dataset, array_problem, labels_of, objective_fields
from ndsm.workflows.evaluate import evaluate_rows
from ndsm.workflows.prior_match import prior_match, prior_warning
from ndsm.workflows.setup import describe_data, describe_labels, squeezed_columns
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import Denoised, TrainedModel

CLOSED_FORM, SIMULATED = "table", "table-langevin"
"""Presets without `config`: for the loss of a noising in closed form, and for all others."""


class NDSM(OneToOneFeatureMixin, BaseEstimator):
    """Generative model of rows, trained by nonlinear denoising score matching.

    Standardises the columns, fits a Gaussian mixture, trains a network on rows that the mixture noises, and generates by the
    reverse process from the mixture. By default a row is noised in closed form, by the linear process of a component that is drawn
    for it (the preset `table`), and training ends when the loss of held-out rows falls no more. With another `objective` than "dsm", or a
    `process`, the noising is simulated on a thread (the preset `table-langevin`): the Langevin diffusion of the mixture, or your own drift.

    Args:
        n_components: mixture components; "auto" takes what explains held-out rows best (`reference.n_components`); the preset's if None.
        covariance_type: `spherical`, `tied`, `diag`, `full`, or "auto"; the preset's if None.
        objective: the loss: a name of `objective.kind`, or an object of `ndsm.objectives`, e.g.
            `ndsm.objectives.NDSM(control_variate="learned")`; the preset's if None.
        max_steps: optimiser steps, the preset's if None.
        batch_rows: rows per step, the preset's if None.
        lr: learning rate, the preset's if None.
        sample_steps: network evaluations per generated row, the preset's if None.
        process: forward process of your own in place of the mixture's, in standardised units, e.g.
            `ndsm.Langevin(drift=f, prior=p, horizon=1.0)`; such a model cannot be saved, since its drift is code.
        config: what else to use: a preset's name or a `Config`; of its data section only how rows
            are scaled is used.
        random_state: what training and, in each call, `sample`, `impute` and `reconstruct` draw from, as in scikit-learn's
            mixtures: a whole number gives the same rows at every call, a NumPy `RandomState` or `Generator` moves on with
            each, and None draws afresh.
        device: `auto`, `cpu` or `cuda`.
        verbose: 1 shows progress.

    Attributes:
        n_features_in_: columns of X.
        feature_names_in_: their names, (n_features_in_,), if X was a data frame whose columns all have text as names.
        mixture_: the fitted `GaussianMixture`, in standardised units; None with a process of your own.
        history_: metrics of training, one dict per report.
        classes_: the labels it knows; none if it was trained without.
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] | None = None,
        *,
        covariance_type: str | None = None,
        objective: str | Objective | None = None,
        max_steps: int | None = None,
        batch_rows: int | None = None,
        lr: float | None = None,
        sample_steps: int | None = None,
        process: Langevin | None = None,
        config: str | Config | None = None,
        random_state: RandomState = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.objective = objective
        self.max_steps = max_steps
        self.batch_rows = batch_rows
        self.lr = lr
        self.sample_steps = sample_steps
        self.process = process
        self.config = config
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @usable_threads()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X, (n, d); returns self.

        Args:
            X: an array, or a data frame of pandas, polars or PyArrow with columns of numbers, true/false, dates or times;
                rows then come back as such a data frame, with the same columns and types.
            y: labels (n,) - text, true/false, whole numbers, dates or bytes -, for `sample(n, label=...)`; `classes_` then holds
                the different ones.

        Raises:
            ValueError: X is not a finite 2-D array of numbers (scikit-learn's message), a column holds something else, or a
                setting is bad.
        """
        # On a copy, so that a fit that fails leaves an earlier one intact.
        frame = Frame.of(X) if is_frame(X) else None
        rows = copy(self)._validated(X, reset=True, ensure_min_samples=2)
        frame = frame or Frame.of_array(rows)
        known, labels = (None, None) if y is None else labels_of(y, frame, len(rows))
        config = self._resolve(0 if known is None else len(known.values))
        dataset = array_dataset(rows, config, frame.schema)
        data = {
            **describe_data(dataset, dataset.stamp),
            "fitted": "in Python",
            "frame": frame.to_json(),
            "random_state": int(self.random_state) if isinstance(self.random_state, Integral) else None,
        }
        if known is not None:
            data["labels"] = known.to_json()
        mixture, problem = array_problem(config, dataset, self.process, self.objective, labels)
        for notice in (
            prior_warning(prior_match(problem, dataset.train)),
            squeezed_columns(problem.config, dataset),
        ):
            if notice:
                warnings.warn(notice, stacklevel=2)
        data |= describe_labels(problem, dataset.train)
        if self.verbose and dataset.scaling.columns is not None:
            print(dataset.scaling.columns.describe())
        history: list[dict[str, Any]] = []
        with training_in_memory(problem, dataset.train) as (trainer, records):
            for record in records:
                history.append(record.metrics)
                if self.verbose:
                    m = record.metrics
                    print(
                        f"step {m['step']}/{config.train.steps}  loss {m['loss']:.4g}  {m['steps_per_s']:.0f} step/s"
                    )
        self.history_ = history
        model = TrainedModel.described(problem, trainer.ema.eval(), data)
        self._take(mixture, data, frame, trainer.model, model)
        return self

    @usable_threads()
    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: RandomState = None,
        given: dict[str, float] | None = None,
        label: Any = None,
        guidance: float = 1.0,
        final: Literal["mean", "draw"] = "mean",
        return_labels: bool = False,
        mode_weights: Sequence[float] | None = None,
        class_weights: Mapping[Any, float] | None = None,
    ) -> Any:
        """Generate n_samples rows in the units of X: an array (n_samples, d) of X's precision, or a data frame if X was one.

        Args:
            random_state: source of random numbers, the estimator's own if None.
            given: values of some columns by name (x0, x1, ... of an array); the others are drawn given these.
            label: one of `classes_`; all rows have that label.
            guidance: strength of the label, 1 for the law of its rows.
            return_labels: whether to return the pair (rows, labels), with an array (n_samples,) of labels. Without `label` they
                are drawn with their shares among the training rows, and come in order. Not with `given`.
            mode_weights: shares of the mixture's components among the rows, (K,), in place of those of the training rows; for
                process.kind mixture-ou.
            class_weights: shares of the labels in place of those of the training rows, with `return_labels`; a label that is not
                named has none.
            final: the last step: the mean of the clean row given the noisy one, or a normal draw with its covariance.

        With a whole number as random state the first rows are the same for a larger n_samples, and the same as those of
        `ndsm sample --seed`.
        """
        check_is_fitted(self, "n_features_in_")
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise InputError(f"n_samples: expected a whole number of at least 1, found {n_samples!r}")
        number = None if label is None else self._labels.number(label)
        if return_labels and (given or not self.classes_):
            found = "given beside it" if given else "a model trained without labels"
            raise InputError(f"return_labels: expected rows that have labels, found {found}")
        if final not in ("mean", "draw"):
            raise InputError(f"final: expected 'mean' or 'draw', found {final!r}")
        if class_weights is not None and not return_labels:
            raise InputError("class_weights: expected return_labels beside it, found none")
        if given:
            if label is not None or final == "draw" or mode_weights is not None:
                beside = (
                    "label" if label is not None else "a final draw" if final == "draw" else "mode_weights"
                )
                raise InputError(f"sample: expected given alone, found {beside} beside it")
            seed = self._seed(random_state)
            return self._rows_out(self._model.sample_given(given, int(n_samples), seed, self.sample_steps))
        way = configured_sampler(self.config_.sample)
        # A second-order score is trained without labels.
        second_order = self._model.second_order if label is None and not return_labels else None
        weights = None
        if class_weights is not None:
            numbered = {self._labels.number(name): weight for name, weight in class_weights.items()}
            weights = [numbered.get(number, 0.0) for number in range(len(self.classes_))]
        pairs = self._model.sample(
            int(n_samples), self._seed(random_state), self.sample_steps, label=number, with_labels=return_labels,
            class_weights=weights, mode_weights=mode_weights,
            guidance=guidance, sampler=FinalDraw(way, second_order) if final == "draw" else None,
        )  # fmt: skip
        rows, numbers = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        out = self._rows_out(rows)
        return (out, np.array(self.classes_)[numbers]) if return_labels else out

    @usable_threads()
    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log-density of each row of X (n, d) in nats and in the units of X, (n,) float64.

        It is that of the probability flow (`ndsm.inference.likelihood`), with an exact divergence up to 64 columns.

        Raises:
            ValueError: X is not a finite 2-D array of numbers with `n_features_in_` columns, or a data frame whose columns have
                other names or another order than at `fit`.
        """
        rows = self._rows(X)
        return self._model.log_density(rows, seed=self.config_.train.seed).log_prob

    def score(self, X: Any, y: None = None) -> float:
        """Return the mean of `score_samples`, as scikit-learn's mixtures do: the higher, the better."""
        return float(self.score_samples(X).mean())

    @usable_threads()
    def evaluate(
        self, X: Any, *, X_train: Any = None, n_samples: int = 10_000, random_state: RandomState = None
    ) -> Evaluation:
        """Test generated rows against held-out rows X (n, d); returns the metrics, a dictionary that prints as a table.

        Args:
            X: rows that the model was not trained on, at least 40.
            X_train: rows that it was trained on: they set the floor, and copies of them are looked for. Without them half of X
                sets the floor.
            n_samples: rows to generate.
            random_state: what is drawn from, the estimator's own if None.

        Raises:
            ValueError: X or X_train is not a finite 2-D array of numbers with `n_features_in_` columns, or X is too short.
        """
        train = None if X_train is None else self._rows(X_train)
        seed = self._seed(random_state)
        return Evaluation(
            evaluate_rows(
                self._model, self._rows(X), train, n_samples, seed, self.mixture_, self.sample_steps
            )
        )

    @usable_threads()
    def impute(self, X: Any, n_draws: int = 1, *, random_state: RandomState = None) -> Any:
        """Draw the missing numbers (NaN) of rows X (n, d) given the others, n_draws times, (n_draws, n, d).

        The others stay as they are. One draw is a completed table; many show how uncertain each missing number is.
        The completions of a row are weighted by the model's density, see `ndsm.inference.imputation`, where `sample_steps` are the
        times of the path (40 if None) and `sample.particles` of `config` the completions among which one or more are drawn.

        Args:
            X: an array, or a data frame with the columns of `fit`; of a data frame the completed ones are a list of n_draws
                data frames with the types of `fit`.
            random_state: what is drawn from, the estimator's own if None.

        Raises:
            ValueError: X is not a 2-D array of numbers and NaN with `n_features_in_` columns, a row is all missing, or a known
                number is none of its column's type at `fit`.
        """
        check_is_fitted(self, "n_features_in_")
        rows = self._validated(X, reset=False, exact=True, ensure_all_finite="allow-nan")
        return self._rows_out(self._drawn(rows, n_draws, random_state), X)

    @usable_threads()
    def reconstruct(
        self,
        A: Any,
        y: Any,
        noise: float | np.ndarray = 0.0,
        n_draws: int = 1,
        *,
        method: Method | None = None,
        strength: float = 1.0,
        random_state: RandomState = None,
    ) -> Any:
        """Draw rows x in the units of X given measurements y = A x + noise, n_draws times, (n_draws, n, d) of X's precision.

        If X was a data frame, a list of n_draws data frames.

        The mean of the draws is a point estimate, and their spread how uncertain it is. `sample_steps` evaluations of the
        network go with each draw; rows are made in chunks.

        Args:
            A: matrix (m, d), or an operator of `ndsm.inference.guidance`, such as `mask` or `average_pool`.
            y: measurements of n rows, (n, m).
            noise: their standard deviation, a number or one for each measurement (m,).
            method: "moment-matched" follows the likelihood of y with the noise that it has (`MomentMatched`), "projection" is
                the dissertation's (`ndsm.inference.projection`); if None the latter for a drift of your own, else the former.
            strength: λ of the projection, 1 for exact measurements, less for noisy ones.
            random_state: what is drawn from, the estimator's own if None.

        Raises:
            ValueError: y is not a finite 2-D array of numbers, or A does not map rows of `n_features_in_` numbers to rows of y.
        """
        check_is_fitted(self, "n_features_in_")
        operator = A if isinstance(A, Operator) else Operator(torch.from_numpy(np.array(A, dtype=np.float64)))
        measured = check_array(y, dtype=np.float64, estimator=self, input_name="y")
        if n_draws < 1:
            raise InputError(f"n_draws: expected at least 1, found {n_draws}")
        if method not in (None, *get_args(Method)):
            listed = " or ".join(map(repr, get_args(Method)))
            raise InputError(f"method: expected {listed}, found {method!r}")
        found = self._model.reconstruct(
            operator, measured, noise, n_draws, self._seed(random_state), self.sample_steps,
            method, strength,
        )  # fmt: skip
        return self._rows_out(found)

    @usable_threads()
    def fit_second_order(self, X: Any, *, rank: int = 4, steps: int = 4000) -> Self:
        """Train a second-order score on the rows X that the model was fitted on (`ndsm.inference.second_order`); returns self.

        `denoise` and `sample(final="draw")` then use it in place of the network's Jacobian. It is not saved with the model.

        Args:
            rank: columns of its low-rank part, at most n_features_in_; 0 for a diagonal.
            steps: of the optimiser.

        Raises:
            ValueError: X is not a finite 2-D array of numbers with `n_features_in_` columns, or the rank is negative.
        """
        self._model.fit_second_order(self._rows(X), rank, steps)
        return self

    @usable_threads()
    def denoise(self, X: Any, t: float, rank: int = 0) -> Denoised:
        """Return mean, standard deviation and factors of the covariance of the clean rows given noisy ones X (n, d), in X's units.

        By the second-order score if one was trained, else by the network's Jacobian, at n_features_in_ backward passes.

        Args:
            t: how noisy: X is what the process makes of clean rows by time t. As t → 0 a mixture's process adds noise of variance
                2t in standardised units.
            rank: columns of the factors, the largest principal axes; a trained second-order score has its own.

        Raises:
            ValueError: X is not a finite 2-D array of numbers with `n_features_in_` columns, t is not a time of the process, or
                the process is a drift of your own.
        """
        return self._model.denoise(self._rows(X), t, rank)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose what rows of `sample`, `impute` and `reconstruct` come back as; returns self.

        Args:
            transform: "default" is what `fit` was given, or for `impute` what it is given itself: a data frame of that library,
                or an array. "pandas", "polars" and "pyarrow" are data frames of these, "numpy" arrays. None leaves the choice
                as it is. The name is scikit-learn's, whose `set_config(transform_output=...)` is followed where nothing is
                chosen here.

        Raises:
            InputError: it is none of these.
        """
        if transform is not None:
            if transform not in ("default", "numpy", *LIBRARIES):
                raise InputError(
                    f"transform: expected default, numpy, {', '.join(LIBRARIES)} or None, found {transform!r}"
                )
            # The name under which scikit-learn's clone copies the choice.
            self._sklearn_output_config = {"transform": transform}
        return self

    def save(self, path: str | Path) -> None:
        """Write a run directory, which `ndsm.load` and `ndsm sample` read.

        Raises:
            InputError: something that is not an empty folder is there already.
        """
        check_is_fitted(self, "n_features_in_")
        if self.mixture_ is None:
            raise InputError(
                "save: expected a model of a fitted mixture, found a process of your own: code is not saved"
            )
        run = Run(Path(path))
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise InputError(f"{path}: expected a new or empty folder, found one with files in it")
        run.begin(self.config_, self._data, self.mixture_)
        run.save_weights(self._model.network, self._raw)

    # ---- inside ----

    def _rows(self, X: Any) -> np.ndarray:
        """Return X as finite rows with the model's columns, (n, d)."""
        check_is_fitted(self, "n_features_in_")
        return self._validated(X, reset=False)

    def _validated(self, X: Any, *, reset: bool, exact: bool = False, **checks: Any) -> np.ndarray:
        """Return X as rows (n, d), float32 or float64, after scikit-learn's checks of names, columns and values.

        Args:
            reset: whether X says what the columns are, or has to have the columns of `fit`.
            exact: whether the numbers have to be some of their column's type.
            checks: of `check_array`.
        """
        checks = {"dtype": (np.float64, np.float32), **checks}
        if not is_frame(X):
            return np.asarray(validate_data(self, X, reset=reset, **checks))
        validate_data(self, X, reset=reset, skip_check_array=True)
        rows = numbers(X, None if reset else self._frame, exact)
        return np.asarray(check_array(rows, input_name="X", estimator=self, **checks))

    def _seed(self, random_state: RandomState) -> int:
        """Return the seed of one call that draws."""
        return draw_seed(self.random_state if random_state is None else random_state)

    def _drawn(self, rows: np.ndarray, n_draws: int, random_state: RandomState) -> np.ndarray:
        """Complete rows (n, d) with missing numbers n_draws times, (n_draws, n, d)."""
        if n_draws < 1:
            raise InputError(f"n_draws: expected at least 1, found {n_draws}")
        return self._model.impute(rows, n_draws, self._seed(random_state), self.sample_steps)

    def _rows_out(self, rows: np.ndarray, like: Any = None) -> Any:
        """Return rows (n, d), or draws of them (n_draws, n, d), in the container that `set_output` and `fit` chose.

        Args:
            like: what the rows are completed of; of its kind if nothing else was chosen, with its index.
        """
        frame, library = self._frame, chosen_library(self)
        given = is_frame(like)
        if library == "default":
            library = Frame.of(like).container if given else "numpy" if like is not None else frame.container
        if library == "numpy":
            # Generated rows have the precision of the rows of fit, completed ones that of the given rows.
            return rows.astype(frame.precision) if like is None else rows
        if given and frame.container == "numpy" and not hasattr(self, "feature_names_in_"):
            frame = Frame.of(like).as_floats()
        if rows.ndim == 3:
            return [frame.build(part, library, like if given else None) for part in rows]
        return frame.build(rows, library)

    def _resolve(self, classes: int = 0) -> Config:
        """Return the configuration of this estimator's settings, for `classes` labels."""
        if isinstance(self.config, Config):
            tree = self.config.model_dump(mode="json")
        else:
            simulated = self.process is not None or self.objective not in (None, "dsm")
            tree = read_preset(self.config or (SIMULATED if simulated else CLOSED_FORM))
        # X replaces the preset's data, of which only the scaling matters.
        known = flat(tree)
        scaling = {name: known[name] for name in names_of(Config, "scaling") if name in known}
        if types := (tree.get("data") or {}).get("column_types"):
            scaling["data.column_types"] = types
        # Only images have a symmetry: with one, data.name says that the rows of X are images.
        pictured = known.get("data.symmetry", "none") != "none" and known.get("data.name") in IMAGES
        given = {
            "reference.n_components": self.n_components,
            "reference.covariance_type": self.covariance_type,
            "train.steps": self.max_steps,
            "train.batch_rows": self.batch_rows,
            "train.lr": self.lr,
            "sample.steps": self.sample_steps,
        }
        overrides = {
            "data": {"name": "images" if pictured else "vectors", "path": "X", "validation_fraction": 0.0},
            **scaling,
            **({} if self.objective is None else objective_fields(self.objective)),
            "train.seed": draw_seed(self.random_state),
            "train.device": self.device,
            "network.classes": classes,
            "train.workers": 1,
            **({} if self.process is None else {"process.horizon": self.process.horizon}),
            **{k: v for k, v in given.items() if v is not None},
        }
        return build_config(merge(tree, overrides), "NDSM")

    def _take(
        self,
        mixture: GaussianMixture | None,
        data: dict[str, Any],
        frame: Frame,
        raw: nn.Module | None,
        model: TrainedModel,
    ) -> None:
        self.mixture_, self.config_ = mixture, model.problem.config
        self._data, self._raw, self._model = data, raw, model
        self._labels = Labels.of_run(data, self.config_.network.class_count)
        self.classes_: list[Any] = list(self._labels.values)
        self._frame, self.n_features_in_ = frame, model.scaling.original_dimensions
        if frame.named:
            self.feature_names_in_ = np.array(frame.schema.dimension_names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


def load(path: str | Path, *, process: Langevin | None = None) -> NDSM:
    """Load the fitted model of a finished run directory, however it was trained.

    Args:
        process: the one of a run that `pipelines.train.train` trained with a process of your own.

    Raises:
        InputError: there is no finished run at `path`.
    """
    run = Run.open(path)
    config, data = run.config(), run.data()
    model = NDSM(
        config.reference.n_components,
        covariance_type=config.reference.covariance_type,
        objective=config.objective.kind,
        config=config,
        random_state=data.get("random_state", config.train.seed),
        device=config.train.device,
        process=process,
    )
    mixture = run.mixture() if process is None else None
    model.history_ = run.metrics_since(0)[0]
    model._take(mixture, data, Frame.of_run(data, config.data.name), None, TrainedModel.of(run, process))
    return model
