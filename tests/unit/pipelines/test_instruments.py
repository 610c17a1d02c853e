"""What Prometheus is told about a line of metrics."""

import json
import re
from pathlib import Path

import pytest

from pipelines import instruments

ROOT = Path(__file__).parents[3]


class Fake:
    """A gauge or counter that remembers."""

    made = {}

    def __init__(self, name, description, tags):
        assert description
        assert tags == ("rank",)
        self.value, self.tags = 0.0, {}
        Fake.made[name] = self

    def set_default_tags(self, tags):
        self.tags = tags

    def set(self, value):
        self.value = value

    def inc(self, value):
        assert value > 0
        self.value += value


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    Fake.made = {}
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(instruments, kind, Fake)


def line(received, **more):
    return {
        "step": 10,
        "loss": 0.5,
        "steps_per_s": 4.0,
        "stall_fraction": 0.1,
        "blocks_received": received,
        **more,
    }


def test_gauges_show_the_last_line_and_counters_what_was_added():
    shown = instruments.Instruments(0, {})
    for received in (3, 3, 8):
        shown.show(line(received))
    made = Fake.made
    assert made["ndsm_loss"].value == 0.5
    assert made["ndsm_step_seconds"].value == 0.25
    assert made["ndsm_blocks_received"].value == 8
    assert {instrument.tags["rank"] for instrument in made.values()} == {"0"}


def test_counts_over_all_workers_are_kept_once():
    instruments.Instruments(1, {}).show(line(5))
    assert Fake.made["ndsm_stall_fraction"].value == 0.1
    assert Fake.made["ndsm_blocks_received"].value == 0


def test_a_worker_that_starts_again_counts_what_is_new():
    """Its lines go on from what the run had counted; Prometheus has that from the process before."""
    shown = instruments.Instruments(0, {"blocks_received": 5, "blocks_taken": 4})
    shown.show(line(5))
    assert Fake.made["ndsm_blocks_received"].value == 0
    shown.show(line(7))
    assert Fake.made["ndsm_blocks_received"].value == 2


def test_the_dashboard_shows_every_number_by_the_name_that_prometheus_sees():
    """Ray puts `ray_` before a name and `_total` after a counter's."""
    coordinator = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    shown = {
        name
        for panel in coordinator["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_\w+", target["expr"])
    }
    instruments.Instruments(0, {})
    assert shown == {
        f"ray_{name}_total" if name.removeprefix("ndsm_") in instruments.COUNTS else f"ray_{name}"
        for name in Fake.made
    }
