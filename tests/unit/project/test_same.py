"""The tool that compares the results of two trees (`make same`): what it covers and what it notices."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import ndsm

FOLDER = Path(__file__).parents[2] / "same"

LEFT_OUT = {
    "train.device": {"auto", "cuda"},
    # Numbers of actors on Ray; `auto` measures how long things take.
    "train.simulators": {"auto"},
}
"""Choices that decide where things are computed."""


@pytest.fixture(scope="module")
def same():
    """The tool's modules by their names."""
    before, path = set(sys.modules), str(FOLDER)
    sys.path.insert(0, path)
    try:
        from cases import CASES
        from inputs import write_inputs
        from worker import choices, result, samplers_of

        spec = importlib.util.spec_from_file_location("same_main", FOLDER / "__main__.py")
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        yield {
            "cases": CASES, "write_inputs": write_inputs, "choices": choices, "result": result,
            "samplers_of": samplers_of, "compare": main.compare, "report": main.report,
        }  # fmt: skip
    finally:
        sys.path.remove(path)
        for name in {"cases", "inputs", "worker", "python_cases"} & (set(sys.modules) - before):
            del sys.modules[name]


def test_every_preset_has_a_case(same, capsys):
    from ndsm.cli import main

    assert main(["presets"]) == 0
    packaged = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert packaged - {"vectors"} <= {case.preset for case in same["cases"] if case.door == "train"}


def test_every_choice_of_the_configuration_has_a_case(same):
    """A new objective, process, sampler, ... needs a case: what nothing compares may change unnoticed."""
    used = {}
    for case in same["cases"]:
        if case.door == "python":
            continue
        fields = {key: value for key, value in case.fields.items() if not key.startswith("data.path")}
        config = ndsm.load_config(
            case.preset,
            {**fields, "data.path": "X"}
            if "data.path" in case.fields or case.preset.startswith("table")
            else fields,
        )
        for name, _ in same["choices"](ndsm.Config):
            value = config
            for part in name.split("."):
                value = getattr(value, part)
            used.setdefault(name, []).append(value)
        used["sample.sampler"] += same["samplers_of"](case)
    lacking = {
        name: missing
        for name, values in same["choices"](ndsm.Config)
        if (
            missing := (values or set())
            - set(map(str, used[name]))
            - {value for value in used[name] if not isinstance(value, dict)}
            - LEFT_OUT.get(name, set())
        )
    }
    assert lacking == {}


def test_names_of_cases_are_unique(same):
    names = [case.name for case in same["cases"]]
    assert len(names) == len(set(names))


def test_comparison_says_what_differs(same, capsys):
    whole = {"parts": {"weights": "a", "rows.parquet": "b"}}
    other = {"parts": {"weights": "a", "rows.parquet": "c"}}
    fails, absent = {"failed": "ValueError: no"}, {"absent": True}
    compare = same["compare"]
    assert compare(whole, whole) == (True, "equal      2 parts")
    assert compare(whole, other) == (False, "DIFFERENT  rows.parquet")
    # A newer version may write more, and no less.
    assert compare(whole, {"parts": whole["parts"] | {"new": "d"}})[0]
    assert compare(whole, {"parts": {"weights": "a"}}) == (False, "DIFFERENT  rows.parquet (gone)")
    assert compare({"parts": {}}, {"parts": {}})[0] is False
    assert compare(fails, fails) == (False, "FAILS      in both: ValueError: no")
    assert compare(whole, fails) == (False, "FAILS      in new: ValueError: no")
    assert compare(absent, whole) == (True, "only in new")
    assert compare(whole, absent) == (True, "only in base")
    assert compare(absent, fails)[0] is False
    assert compare(absent, absent)[0] is False
    assert compare(whole, None)[0] is False
    assert same["report"]({"a": whole, "b": whole}, {"a": whole, "b": other}, ["a", "b"]) == 1
    assert "b" in (shown := capsys.readouterr().out).splitlines()[1]
    assert "2 cases, 1 of them different" in shown
    assert same["report"]({"a": whole}, {"a": whole}, ["a"]) == 0
    assert same["report"]({}, {}, []) == 1


def test_another_result_has_another_hash(same, tmp_path, monkeypatch):
    """A case run twice gives the same hashes; with one number of one weight changed, others of weights and rows."""
    case = next(case for case in same["cases"] if case.name == "objective ndsm")
    known = dict(same["choices"](ndsm.Config))
    first = same["result"](case, tmp_path, tmp_path / "work", known)
    assert same["compare"](first, same["result"](case, tmp_path, tmp_path / "work", known))[0]
    save = ndsm.NDSM.save

    def nudged(model, path):
        save(model, path)
        from safetensors.numpy import load_file, save_file

        file = Path(path) / "model.safetensors"
        weights = load_file(file)
        name = max(weights)
        flat = weights[name].reshape(-1)
        flat[0] = np.nextafter(flat[0], np.float32(np.inf))
        save_file(weights, file)

    monkeypatch.setattr(ndsm.NDSM, "save", nudged)
    right, told = same["compare"](first, same["result"](case, tmp_path, tmp_path / "work", known))
    assert not right
    assert "weights" in told
    assert "raw weights" not in told
    assert not (tmp_path / "work").exists()


def test_what_a_tree_does_not_know_is_absent(same, tmp_path):
    from dataclasses import replace

    case = next(case for case in same["cases"] if case.name == "objective ndsm")
    known = dict(same["choices"](ndsm.Config))
    for other in (
        {"fields": {"objective.kind": "newer"}},
        {"fields": {"objective.newer": 1}},
        {"preset": "newer"},
        {"then": ("sample run --sampler newer --out rows.parquet",)},
    ):
        assert same["result"](replace(case, **other), tmp_path, tmp_path / "work", known) == {"absent": True}
