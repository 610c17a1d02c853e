"""Rows and verdict of an evaluation, as pages and the command line show them."""

from typing import Any

from ndsm.metrics.verdict import NAMES, column_value

LABELS = {
    "fid": "Fréchet distance (FID)",
    "fid_images": "the same against real images",
    "is": "inception score",
    "fake_share": "fake images, share",
    "nearest": "distance to the nearest training image",
    "swd2": "sliced Wasserstein-2",
    "class_share_tv": "class shares, total variation",
    "class_share_std": "class shares, std of error",
    "mode_std": "samples per mode of 10,000, std of error",
    "off_support": "off the support, share",
    "log_prob_bound": "log-density of validation rows, at least, nats",
}


HEADER = ("metric", "model", "mixture alone", "true data (floor)")
"""Of tables of `evaluation_rows`."""
MAX_COLUMNS = 20
"""Columns that are listed, the worst first."""

Row = tuple[str, float | None, float | None, float | None]


def distance_rows(metrics: dict[str, Any]) -> list[Row]:
    """Return the rows of `evaluation_rows` that are no tests: distances and class shares."""
    prior = metrics.get("prior", {})
    return [
        (label, metrics[key], prior.get(key), metrics.get(f"{key}_floor"))
        for key, label in LABELS.items()
        if key in metrics
    ]


def evaluation_rows(metrics: dict[str, Any]) -> list[Row]:
    """Return each metric's name and its value for the model, the mixture alone and true data (the floor)."""
    prior, rows = metrics.get("prior", {}), distance_rows(metrics)
    tests, c2st = metrics.get("tests", {}), metrics.get("c2st")
    if c2st is not None:
        rows.append(
            ("trees that tell rows (C2ST), AUC", c2st["auc"], tests["c2st"]["mixture"], c2st["floor"])
        )
    for key, label in (
        ("columns", "worst column, KS or total variation"),
        ("shares", "component shares, total variation"),
    ):
        if key in tests:
            rows.append((label, *(tests[key][part] for part in ("value", "mixture", "floor"))))
    if (pairs := metrics.get("pairs")) is not None:
        rows.append(("pairs of columns, mean difference of dependence", pairs["mean"], None, pairs["floor"]))
    if (labelled := metrics.get("component_share_labels")) is not None:
        rows.append(("component shares of labelled rows", labelled["tv"], None, labelled["floor"]))
    if (tstr := metrics.get("tstr")) is not None:
        rows.append(("labels learned from generated rows, macro F1", tstr["f1"], None, tstr["real_f1"]))
    if "copies" in metrics:
        rows.append(
            ("nearer to training than held-out rows, share", metrics["copies"], prior.get("copies"), 0.5)
        )
    return rows


def tested_rows(metrics: dict[str, Any]) -> list[tuple[str, float, float, float, float | None, str, str]]:
    """Return each test's name, value, standard error, floor, value of the mixture alone, and what it says of both."""
    return [
        (
            NAMES[name], test["value"], test["se"], test["floor"], test["mixture"], test["against_data"],
            "" if test["mixture"] is None else test["against_mixture"],
        )
        for name, test in metrics.get("tests", {}).items()
    ]  # fmt: skip


def column_rows(metrics: dict[str, Any]) -> tuple[list[tuple[str | float | None, ...]], int]:
    """Return the worst columns and how many more there are.

    A row is the column's name, distance, its standard error and floor, and the shares out of the data's range, of exact values and of
    missing cells, each beside that of held-out rows.
    """
    columns = metrics.get("columns", {})
    order = sorted(columns, key=lambda name: -column_value(columns[name]))
    rows: list[tuple[str | float | None, ...]] = []
    for name in order[:MAX_COLUMNS]:
        c = columns[name]
        shares = (c[key + data] for key in ("out_of_range", "exact", "missing") for data in ("", "_data"))
        rows.append((name, "KS" if "ks" in c else "TV", column_value(c), c["se"], c["floor"], *shares))
    return rows, max(len(order) - MAX_COLUMNS, 0)


def verdict(metrics: dict[str, Any]) -> str:
    """Return a sentence on the tests of an evaluation; of one without, how far the model is from the mixture alone to true data."""
    judged = metrics.get("verdict")
    if judged is None:
        return _way_gone(metrics)
    numbers = _numbers(metrics, "fid")
    return judged["sentence"] + ("" if numbers is None else f" {numbers}.")


def _numbers(metrics: dict[str, Any], key: str) -> str | None:
    """A distance beside the mixture alone's and the floor; None if one of them is not known."""
    values = metrics.get(key), metrics.get("prior", {}).get(key), metrics.get(f"{key}_floor")
    if None in values:
        return None
    model, prior, floor = values
    name = {"fid": "Fréchet distance", "swd2": "Sliced Wasserstein-2 distance"}[key]
    return f"{name} {model:.4g}; mixture alone {prior:.4g}, true data (floor) {floor:.4g}"


def _way_gone(metrics: dict[str, Any]) -> str:
    """What evaluations of earlier versions, without tests, say by the first distance that all have."""
    for key in ("fid", "swd2"):
        numbers = _numbers(metrics, key)
        if numbers is None:
            continue
        model, prior, floor = metrics[key], metrics["prior"][key], metrics[f"{key}_floor"]
        if model <= floor:
            return f"At the floor: by this metric the samples cannot be told from true data. {numbers}."
        if prior <= floor:
            return f"The mixture alone is at the floor already, so that this metric cannot judge the model. {numbers}."
        if model >= prior:
            return f"No better than the mixture alone: the network has learned nothing that this metric sees. {numbers}."
        return f"{(prior - model) / (prior - floor):.0%} of the way from the mixture alone to true data. {numbers}."
    return "No distance to the data was measured."


class Evaluation(dict[str, Any]):
    """Metrics by the keys of `metrics.json`, shown as a table below the verdict."""

    def __repr__(self) -> str:
        """The verdict, and each metric beside the mixture alone and the floor."""
        rows = [
            (label, *("" if v is None else f"{v:.4g}" for v in values))
            for label, *values in evaluation_rows(self)
        ]
        width = max(len(row[0]) for row in (HEADER, *rows))
        lines = [f"{label:{width}}  {a:>10}  {b:>13}  {c:>17}" for label, a, b, c in (HEADER, *rows)]
        return "\n".join([verdict(self), *lines])
