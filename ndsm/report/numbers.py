"""Names and values of the metrics that a report shows."""

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
    """Each metric's name and its value for the model, the mixture alone and true data (the floor)."""
    prior = metrics.get("prior", {})
    return [
        (label, metrics[key], prior.get(key), metrics.get(f"{key}_floor"))
        for key, label in LABELS.items()
        if key in metrics
    ]
