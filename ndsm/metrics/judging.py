"""Tests of generated rows, and of rows of the mixture alone, against held-out rows: what `metrics.json` holds beside `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ndsm.core.rng import numpy_stream
from ndsm.metrics.columns import (
    as_written,
    column_distance,
    describe_columns,
    exactness,
    pair_differences,
    sdmetrics_scores,
)
from ndsm.metrics.compared_rows import MAX_ROWS, Sample, Samples, ToData, sample_of, samples_of
from ndsm.metrics.copies import Copies, copies
from ndsm.metrics.resampling import HELD_OUT, LABELLED, Estimate, bootstrap_weights
from ndsm.metrics.two_sample import rows_for_trees, told_apart, train_on_generated
from ndsm.metrics.verdict import Comparison, sentence
from ndsm.metrics.wasserstein import resampled_distances, sliced_wasserstein

if TYPE_CHECKING:
    from ndsm.data import Dataset
    from ndsm.mixture import GaussianMixture

MAX_COLUMNS = 100
"""Columns of a table up to which they, and trees on them, are looked at."""
TAUGHT_ROWS = 5000
"""Rows that trees learn labels from, or are tested on, at most."""
PROJECTIONS = 32
"""Directions of the sliced distance's replicates; the same ones for all that are compared."""

Estimates = dict[str, Estimate]
"""By the keys of `Samples.others`."""


def tested_distance(dataset: Dataset, samples: Samples, seed: int) -> Estimates:
    """Sliced Wasserstein-2 distances of equally many rows, in standardised units."""
    scaling = dataset.scaling
    parts = [samples.held_out, *samples.others.values()]
    n = min(MAX_ROWS, *(len(part.model) for part in parts))
    rows = [scaling.standardised(part.model[:n]) for part in parts]
    picked = [
        np.stack(
            [np.repeat(np.arange(n), w) for w in bootstrap_weights(n, seed, part.number).astype(np.int64)]
        )
        for part in parts
    ]

    def distances(i: int) -> Estimate:
        draws = resampled_distances(rows[i], rows[0], picked[i], picked[0], PROJECTIONS, seed)
        return Estimate(sliced_wasserstein(rows[i], rows[0], seed=seed), draws)

    return {name: distances(i) for i, name in enumerate(samples.others, 1)}


def tested_shares(samples: Samples, seed: int, member: Callable[[Sample], np.ndarray]) -> Estimates:
    """Total variation of the shares of components, by the memberships (n, K) of rows."""

    def shares(sample: Sample, n: int) -> np.ndarray:
        weights = np.vstack([np.ones(n), bootstrap_weights(n, seed, sample.number)])
        return np.asarray(weights @ member(sample.first(n)) / n)

    n = min(MAX_ROWS, len(samples.held_out.model), *(len(part.model) for part in samples.others.values()))
    true = shares(samples.held_out, n)
    found = {name: 0.5 * np.abs(shares(part, n) - true).sum(1) for name, part in samples.others.items()}
    return {name: Estimate(float(tv[0]), tv[1:]) for name, tv in found.items()}


def tested_columns(
    dataset: Dataset, samples: Samples, seed: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Estimates]:
    """Return the metrics of columns and pairs, the columns of the mixture alone, and the distances of the worst column."""
    n = min(MAX_ROWS, len(samples.held_out.data), *(len(part.data) for part in samples.others.values()))
    true = samples.held_out.data[:n]
    known = np.concatenate([samples.training.data, samples.held_out.data])
    columns = describe_columns(dataset.schema, known, *_range(dataset))
    weights = {part.number: bootstrap_weights(n, seed, part.number) for part in samples.others.values()}
    held_out_weights = bootstrap_weights(n, seed, HELD_OUT)
    every: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in samples.others}
    worst: Estimates = {}
    for name, part in samples.others.items():
        distances = []
        for j, column in enumerate(columns):
            own = part.data[:n, j]
            distance = column_distance(column, own, true[:, j], weights[part.number], held_out_weights)
            distances.append(distance)
            every[name][column.name] = {
                column.kind: distance.value,
                "se": distance.se,
                **exactness(column, own),
            }
        values = [d.value for d in distances]
        worst[name] = Estimate(max(values), np.max([d.draws for d in distances], 0))
    pairs = {
        name: pair_differences(columns, part.data[:n], true, numpy_stream(seed, "pairs", part.number))
        for name, part in samples.others.items()
    }
    for j, column in enumerate(columns):
        data, found = exactness(column, true[:, j]), every["model"][column.name]
        found["floor"] = every["floor"][column.name][column.kind]
        found |= {f"{key}_data": value for key, value in data.items()}
    metrics: dict[str, Any] = {"columns": every["model"]}
    if pairs["model"] is not None:
        metrics["pairs"] = pairs["model"] | {"floor": (pairs["floor"] or {}).get("mean")}
    metrics["sdmetrics"] = sdmetrics_scores(every["model"], pairs["model"])
    return metrics, every.get("mixture", {}), worst


def _range(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Range of the training rows as a table holds them, (d,) each; in pieces, since they may be many."""
    low, high = np.full(dataset.train.shape[1], np.inf), np.full(dataset.train.shape[1], -np.inf)
    for begin in range(0, len(dataset.train), 65_536):
        part = as_written(dataset.scaling.invert(dataset.train[begin : begin + 65_536]), dataset.schema)
        low, high = np.fmin(low, np.fmin.reduce(part)), np.fmax(high, np.fmax.reduce(part))
    return low, high


def judge(
    dataset: Dataset,
    generated: np.ndarray,
    prior: np.ndarray | None,
    seed: int,
    *,
    mixture: GaussianMixture | None = None,
    to_data: ToData | None = None,
    tabular: bool = True,
    labelled: tuple[np.ndarray, np.ndarray] | None = None,
    trained_on: bool = True,
) -> dict[str, Any]:
    """Return the tests of generated rows, JSON-ready; empty if there are fewer than ten rows of a kind.

    Keys:
        columns: {name: {`ks` (Kolmogorov-Smirnov) or `tv` (total variation, of few values), its `se` and `floor`, and shares of
            generated values: `out_of_range`, `exact`, `zeros`, `missing`, with `_data` those of held-out rows}}.
        pairs: difference of Spearman's correlations or of Cramér's V: `mean`, its `se` and `floor`, `largest` and its `pair`.
        sdmetrics: means of scores by SDMetrics' names, 1 is best.
        c2st: {`auc`, `se`, `accuracy`, `n`, `floor`}, see `ndsm.metrics.two_sample.told_apart`.
        component_share: {`tv`, `se`, `floor`}: total variation of the shares of the mixture's components (a toy's modes).
        component_share_labels, tstr: of labelled rows: the same, and see `ndsm.metrics.two_sample.train_on_generated`.
        copies, copies_se: see `ndsm.metrics.copies.copies`.
        tests: {metric: see `Comparison`}.
        verdict: {metric: `as good`, `better`, `worse` or `cannot tell`, see `Comparison.word`; `n`: held-out rows; `reference`: what these are, as of
            `evaluate`; `sentence`}.
        prior: `c2st`, `component_share`, `copies` and `columns` of the mixture alone.

    Args:
        generated, prior: (n, d) rows of the model and of the mixture alone, model units.
        mixture: in model units, for the shares of its components.
        to_data: converts rows from model to original units, `dataset.scaling.invert` if None.
        labelled: rows generated by their labels, (n, d) in model units and in random order, and the labels' numbers, (n,).
        trained_on: whether the model was trained on `dataset.train`; if not, nothing is said of copies.
        tabular: whether the columns mean something each; with images, or more than 100 columns, neither they nor trees are looked at.
    """
    to_data = to_data or dataset.scaling.invert
    samples = samples_of(dataset, generated, prior, seed, to_data)
    if samples is None:
        return {}
    metrics: dict[str, Any] = {}
    alone: dict[str, Any] = {}
    tests = {"swd2": _test(tested_distance(dataset, samples, seed))}
    d = generated.shape[1]
    if tabular and d <= MAX_COLUMNS:
        found, alone_columns, worst = tested_columns(dataset, samples, seed)
        metrics |= found
        tests["columns"] = _test(worst)
        n = min(rows_for_trees(d), *(len(p.data) for p in (samples.held_out, *samples.others.values())))
        told = {
            name: told_apart(part.data[:n], samples.held_out.data[:n], seed, sample=part.number)
            for name, part in samples.others.items()
        }
        metrics["c2st"] = told["model"].to_json() | {"floor": told["floor"].auc.value}
        tests["c2st"] = Comparison.of(
            told["model"].auc, 0.5, told["mixture"].auc if "mixture" in told else None
        )
        if "mixture" in told:
            alone |= {"columns": alone_columns, "c2st": told["mixture"].to_json()}
    if (member := membership(dataset, mixture)) is not None:
        shares = tested_shares(samples, seed, member)
        metrics["component_share"] = share_numbers(shares["model"], shares["floor"])
        tests["shares"] = _test(shares)
        if labelled is not None:
            own = sample_of(LABELLED, labelled[0], dataset, to_data)
            by_label = tested_shares(replace(samples, generated=own, mixture=None), seed, member)
            metrics["component_share_labels"] = share_numbers(by_label["model"], by_label["floor"])
        if "mixture" in shares:
            alone["component_share"] = share_numbers(shares["mixture"], shares["floor"])
    if labelled is not None and (taught := _taught(dataset, labelled, seed, to_data)) is not None:
        metrics["tstr"] = taught
    if samples.copied_from is not None and trained_on:
        standardised = dataset.scaling.standardised
        true = standardised(samples.held_out.model)
        near = copies(standardised(samples.generated.model), samples.copied_from, true, seed)
        metrics |= {"copies": near.share, "copies_se": near.se}
        tests["copies"] = _copies_test(near)
        if samples.mixture is not None:
            alone["copies"] = copies(
                standardised(samples.mixture.model), samples.copied_from, true, seed
            ).share
    held_out = len(samples.held_out.model)
    metrics["tests"] = {name: test.to_json() for name, test in tests.items()}
    metrics["verdict"] = {
        **{name: test.word for name, test in tests.items()},
        "n": held_out,
        "reference": samples.source,
        "sentence": sentence(tests, metrics.get("columns", {}), held_out, samples.source),
    }
    return metrics | ({"prior": alone} if alone else {})


def _taught(
    dataset: Dataset, labelled: tuple[np.ndarray, np.ndarray], seed: int, to_data: ToData
) -> dict[str, Any] | None:
    """What labelled rows teach about the labels of held-out rows; None without such rows."""
    if dataset.train_labels is None or dataset.validation_labels is None or not len(dataset.validation):
        return None

    def written(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return as_written(to_data(rows[:TAUGHT_ROWS]), dataset.schema), labels[:TAUGHT_ROWS]

    return train_on_generated(
        written(*labelled),
        written(dataset.train, dataset.train_labels),
        written(dataset.validation, dataset.validation_labels),
        seed,
    )


def _test(found: Estimates) -> Comparison:
    return Comparison.of(found["model"], found["floor"], found.get("mixture"))


def _copies_test(found: Copies) -> Comparison:
    """The mixture alone is no rival here: what copies nothing is right."""
    return Comparison(found.share, found.se, 0.5, found.share - 0.5, found.se, None, None, None)


def share_numbers(found: Estimate, floor: Estimate) -> dict[str, float]:
    """`tv`, `se` and `floor` of shares."""
    return {"tv": found.value, "se": found.se, "floor": floor.value}


def membership(dataset: Dataset, mixture: GaussianMixture | None) -> Callable[[Sample], np.ndarray] | None:
    """Return what gives the memberships (n, K) of rows, a toy's modes or the mixture's responsibilities; None without several."""
    toy = dataset.toy
    if toy is not None:
        return lambda rows: np.eye(len(toy.weights))[toy.mode_of(rows.data)]
    if mixture is None or mixture.n_components < 2:
        return None
    found = mixture.to("cpu")
    return lambda rows: found.responsibilities(torch.from_numpy(rows.model).to(found.dtype)).double().numpy()
