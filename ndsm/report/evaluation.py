"""Rows and verdict of an evaluation, as pages and the command line show them."""

from typing import Any

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


def evaluation_rows(
    metrics: dict[str, Any],
) -> list[tuple[str, float | None, float | None, float | None]]:
    """Return each metric's name and its value for the model, the mixture alone and true data (the floor)."""
    prior = metrics.get("prior", {})
    return [
        (label, metrics[key], prior.get(key), metrics.get(f"{key}_floor"))
        for key, label in LABELS.items()
        if key in metrics
    ]


def verdict(metrics: dict[str, Any]) -> str:
    """Return a sentence on how far the model is from the mixture alone towards true data, by the first metric that has both."""
    for key in ("fid", "swd2"):
        model, prior = metrics.get(key), metrics.get("prior", {}).get(key)
        floor = metrics.get(f"{key}_floor")
        if model is None or prior is None or floor is None:
            continue
        name = {"fid": "Fréchet distance", "swd2": "Sliced Wasserstein-2 distance"}[key]
        numbers = f"{name} {model:.4g}; mixture alone {prior:.4g}, true data (floor) {floor:.4g}"
        if model <= floor:
            return f"At the floor: by this metric the samples cannot be told from true data. {numbers}."
        if prior <= floor:
            return f"The mixture alone is at the floor already, so that this metric cannot judge the model. {numbers}."
        if model >= prior:
            return f"No better than the mixture alone: the network has learned nothing that this metric sees. {numbers}."
        return f"{(prior - model) / (prior - floor):.0%} of the way from the mixture alone to true data. {numbers}."
    return "No distance to the data was measured."
