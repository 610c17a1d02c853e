"""The run directory: whole files or none, damage is noticed, another training is refused."""

import contextlib
import json
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.core.hashing import fingerprint
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.checkpoints import newest_readable
from ndsm.runs.identity import differing_fields, training_hash
from ndsm.training import Resume
from ndsm.workflows.evaluate import evaluate_run
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import begin, build_problem, prepare
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel

TINY = {
    "data.n": 500,
    "reference.n_init": 1,
    "reference.reg_covar": 0.1,
    "network.width": 8,
    "network.depth": 1,
    "process.grid.steps": 60,
    "train.steps": 20,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.checkpoint_seconds": 1e-9,
    "sample.steps": 70,
}


def tiny(overrides=None):
    return load_config("toy-arcs", {**TINY, **(overrides or {})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, with its two checkpoints of steps 10 and 20."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    experiment = prepare(tiny(), Run(path))
    begin(experiment)
    list(train_locally(experiment))
    return path


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return Run(tmp_path / "run")


def newest(run):
    return max((run.path / "checkpoints").glob("step-*.pt"))


def test_a_finished_run_is_complete_and_holds_nothing_partial(run):
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    (events,) = (name for name in names if name.startswith("tensorboard/"))
    assert names - {events} == {
        "config.yaml",
        "data.json",
        "versions.json",
        "reference.safetensors",
        "reference.json",
        "model.safetensors",
        "model-raw.safetensors",
        "metrics.jsonl",
        "sittings.jsonl",
        "checkpoints/step-000000010.pt",
        "checkpoints/step-000000020.pt",
        "checkpoints/owner.json",
    }
    assert run.config() == tiny()
    assert [m["step"] for m in run.metrics_since(0)[0]] == [10, 20]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(run, share):
    path = newest(run)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    state = run.find_checkpoint().state
    assert state["steps"] == 10


def test_a_newest_checkpoint_with_a_flipped_byte_is_noticed_or_whole(run):
    """Whatever single byte is damaged: either the earlier checkpoint is loaded, or one with the same tensors."""
    path = newest(run)
    content, expected = path.read_bytes(), run.find_checkpoint().state
    fell_back = 0
    for at in range(100, len(content), len(content) // 23):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        state = run.find_checkpoint().state
        fell_back += state["steps"] == 10
        if state["steps"] == 20:
            for name, value in expected["model"].items():
                assert torch.equal(value, state["model"][name])
    assert fell_back > 0


def steps_kept(run):
    return sorted(int(p.stem[5:]) for p in (run.path / "checkpoints").glob("step-*"))


def test_without_a_readable_checkpoint_training_is_refused_and_the_files_stay(run):
    files = sorted((run.path / "checkpoints").glob("step-*.pt"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-5000])
    before = [path.read_bytes() for path in files]
    refused = r"checkpoints: expected a whole checkpoint, found only damaged ones: step-000000020\.pt \(.*, "
    refused += r"step-000000010\.pt \(.*; bring one back from a backup, or start the run over with --fresh$"
    with pytest.raises(InputError, match=refused):
        run.find_checkpoint()
    with pytest.raises(InputError, match=refused):
        list(train_locally(prepare(tiny(), run)))
    assert [path.read_bytes() for path in files] == before
    begin(prepare(tiny(), run, fresh=True))
    assert run.find_checkpoint() is None


@pytest.mark.parametrize("damaged", [20, 30, 40])
def test_a_damaged_checkpoint_never_pushes_a_whole_one_out(run, damaged):
    """Whether training passes its step or overwrites it; the newest two that are whole are kept."""
    folder, experiment = run.path / "checkpoints", prepare(tiny(), run)
    (folder / "step-000000020.pt").rename(folder / f"step-{damaged:09d}.pt")
    (folder / f"step-{damaged:09d}.pt").write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match=f"damaged: step-{damaged:09d}.*; going on from step-000000010"):
        trainer, resume = start(experiment.problem, run.find_checkpoint())
    for step in (30, 35, 50):
        trainer.steps = step
        run.save_checkpoint(trainer.state(), asdict(resume))
        newest, found = {30: (10, 30), 35: (30, 35), 50: (35, 50)}[step], steps_kept(run)
        assert found == [*newest]
        assert Run(run.path).last_step() == step


def test_a_checkpoint_of_another_version_is_not_called_damaged(run):
    """Nor passed over for the one before, since it is whole."""
    path = newest(run)
    saved = torch.load(path, weights_only=True)
    for changed, found in (
        (
            {**saved, "resume": {**saved["resume"], "flux": 1}, "ndsm": "9.9"},
            r"other content of ndsm 9\.9 .*flux",
        ),
        ({"weights": saved["trainer"]}, "a whole one of an earlier version with other content .*trainer"),
    ):
        torch.save(changed, path)
        with pytest.raises(InputError, match=found) as told:
            start(build_problem(tiny(), run.mixture(), ""), run.find_checkpoint())
        assert "damaged" not in str(told.value)
    torch.save({**saved, "trainer": {k: v for k, v in saved["trainer"].items() if k != "epsilon"}}, path)
    with pytest.raises(InputError, match=r"step 20: expected what this version of ndsm saves, .*epsilon"):
        list(train_locally(prepare(tiny(), run)))
    assert steps_kept(run) == [10, 20]


def test_a_disk_that_cannot_be_read_is_no_damage(run, monkeypatch):
    def failing(path, *args, **kwargs):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("ndsm.runs.checkpoints.zipfile.ZipFile", failing)
        with pytest.raises(OSError, match="Input/output error"):
            run.find_checkpoint()
    assert run.last_step() == 20


def test_a_checkpoint_that_is_replaced_while_it_is_looked_for_is_no_damage(run):
    first, last = sorted((run.path / "checkpoints").glob("step-*.pt"))
    listed = iter(
        [[first.with_name("step-000000005.pt"), first.with_name("step-000000007.pt")], [first, last]]
    )
    found, damaged = newest_readable(lambda: next(listed))
    assert (found.state["steps"], damaged) == (20, set())


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"train.lr": 2e-3}, "configuration"),
        ({"network.residual": False}, "configuration"),
        # Not of the configuration: other rows give other blocks.
        ({}, "data, mixture, process and time grid"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(run, tmp_path, other, what):
    """As one that was copied into the wrong run's folder."""
    foreign = prepare(tiny({**other, "train.steps": 10 if other else 20}), Run(tmp_path / "other"))
    if not other:
        spec = replace(foreign.problem.spec, stamp="other rows")
        foreign.problem = replace(foreign.problem, spec=spec)
    begin(foreign)
    list(train_locally(foreign))
    for path in (run.path / "checkpoints").glob("step-*.pt"):
        path.unlink()
    shutil.copy(newest(foreign.run), run.path / "checkpoints")
    before = {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    with pytest.raises(
        InputError, match=rf"step-0000000[12]0\.pt: expected a checkpoint of this run's {what} \("
    ) as told:
        list(train_locally(prepare(tiny(), run)))
    assert "\n" not in str(told.value)
    assert before == {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}


def test_how_a_run_is_executed_makes_no_other_training_of_it():
    same = tiny({"train.workers": 2, "train.block_seconds": 5.0, "sample.steps": 80, "train.lr": 1e-3})
    assert training_hash(same) == training_hash(tiny())
    assert training_hash(tiny({"train.lr": 2e-3})) != training_hash(tiny())


def test_a_checkpoint_can_be_made_another_configurations(run):
    """As a member of a population takes over another one's weights."""
    fields = {"train.lr": 2e-3, "train.steps": 30}
    run.begin(tiny(fields), run.data(), run.mixture())
    run.adopt_checkpoint()
    (line,) = list(train_locally(prepare(tiny(fields), run)))
    assert line.step == 30


def test_training_goes_on_from_the_earlier_checkpoint_to_the_same_weights(run, trained):
    newest(run).write_bytes(b"")
    list(train_locally(prepare(tiny(), run)))
    assert (run.path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    experiment = prepare(tiny({"train.steps": 50}), Run(tmp_path / "run"))
    begin(experiment)
    steps = []
    for _ in train_locally(experiment):
        steps.append(sorted(int(p.stem[5:]) for p in (tmp_path / "run" / "checkpoints").glob("step-*")))
    assert steps == [[10], [10, 20], [20, 30], [30, 40], [40, 50]]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_visible(run, monkeypatch):
    experiment = prepare(tiny(), run)
    trainer, _ = start(experiment.problem, run.find_checkpoint())
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndsm.core.atomic_file.os.fsync", full_disk)
    trainer.steps = 21
    with pytest.raises(OSError, match="No space"):
        run.save_checkpoint(trainer.state(), asdict(Resume()))
    with pytest.raises(OSError, match="No space"):
        run.save_weights(trainer.ema, trainer.model)
    after = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert after == before
    assert run.last_step() == 20


def test_no_file_of_a_run_can_run_code(run):
    """Every pickle in it is one that torch.load takes with weights_only."""
    pickles = [p for p in run.path.rglob("*") if p.is_file() and zipfile.is_zipfile(p)]
    assert len(pickles) == 2
    for path in pickles:
        assert torch.load(path, weights_only=True)["resume"]["world"] == 1
    others = [
        p for p in run.path.rglob("*") if p.is_file() and p not in pickles and p.parent != run.tensorboard
    ]
    assert {p.suffix for p in others} == {".yaml", ".json", ".jsonl", ".safetensors"}


def test_fields_that_change_the_training_are_named_with_both_values():
    fields = differing_fields(tiny(), tiny({"train.lr": 0.5, "process.grid.steps": 61, "data.n": 400}))
    assert sorted(fields) == [
        "data.n (500 before, 400 now)",
        "process.grid.steps (60 before, 61 now)",
        "train.lr (0.001 before, 0.5 now)",
    ]


def test_fields_that_say_how_a_run_is_executed_may_differ():
    changed = {
        "train.workers": 2,
        "train.accumulate": 5,
        "train.simulators": 3,
        "train.window": 4,
        "train.device": "auto",
        "train.storage": "elsewhere",
        "train.checkpoint_seconds": 5.0,
        "train.report_seconds": 5.0,
        "sample.steps": 99,
        "evaluate.n": 100,
    }
    assert differing_fields(tiny(), tiny(changed)) == []


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"evaluate.seconds": 5.0}, True),
        ({"train.window": 4}, True),
        ({"evaluate.n": 99}, False),
        ({"sample.power": 5.0}, False),
    ],
)
def test_an_evaluation_is_kept_while_what_it_was_computed_from_is(run, changed, kept):
    run.write_evaluation({"n": 7})
    run.update(tiny(changed))
    assert run.config() == tiny(changed)
    assert (run.evaluation() is not None) == kept


def test_another_configuration_is_refused_and_nothing_is_changed(run):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(
        InputError, match=r"another configuration: network\.width \(8 before, 9 now\).*--fresh"
    ):
        prepare(tiny({"network.width": 9}), run)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_changed_data_are_refused(tmp_path):
    table = tmp_path / "rows.npy"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    np.save(table, x)
    config = load_config(
        "table-langevin", {"data.path": str(table), "reference.n_components": 2, "train.device": "cpu"}
    )
    begin(prepare(config, Run(tmp_path / "run")))
    prepare(config, Run(tmp_path / "run"))
    x[17, 1] += 0.01
    np.save(table, x)
    with pytest.raises(InputError, match=r"other data: the rows of .*rows\.npy have changed"):
        prepare(config, Run(tmp_path / "run"))


def test_a_run_is_not_evaluated_against_other_rows(run):
    """But a search's trial, which learned from a part of them, is."""
    data = run.data()
    for found in ("another", fingerprint(data["fingerprint"], "search", data["rows"])):
        (run.path / "data.json").write_text(json.dumps({**data, "fingerprint": found}))
        refused = pytest.raises(
            InputError, match="other data: the rows of arcs have changed since; bring them"
        )
        with refused if found == "another" else contextlib.nullcontext():
            evaluate_run(run, 50)
        assert run.samples_png.is_file() == (found != "another")


def test_preparing_writes_nothing(tmp_path):
    prepare(tiny(), Run(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_taken_for_a_new_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="one with other files in it"):
        prepare(tiny(), Run(tmp_path))


def everything_below(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "own",
    [
        {"config.yaml": "mine: true", "thesis.txt": "years of work"},
        {"config.yaml": "mine: true"},
        {"config.yaml": "mine: true", "data.json": '{"mine": true}', "checkpoints/step-1.pt": "weights"},
        {"checkpoints/step-000000010.pt": "weights"},
        {"data.json": "[]"},
        {"model.safetensors": "weights"},
    ],
)
def test_a_folder_that_is_no_run_is_left_alone_whatever_its_files_are_called(tmp_path, own, fresh):
    for name, content in own.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = everything_below(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: expected a new or a run's folder, found one with"):
        prepare(tiny(), Run(tmp_path), fresh=fresh)
    assert everything_below(tmp_path) == before
    with pytest.raises(InputError, match="expected a run directory"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["thesis.txt", "checkpoints/best.pt", "tensorboard/notes.md", "data/rows.npy"]
)
def test_starting_over_refuses_a_run_with_somebody_elses_file(run, name):
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text("years of work")
    before = everything_below(run.path)
    # Beside a run that goes on there may be others.
    assert prepare(tiny(), run).run.last_step() == 20
    with pytest.raises(InputError, match=f"--fresh starts over, found one with other files in it: {name};"):
        prepare(tiny(), run, fresh=True)
    assert everything_below(run.path) == before
    # One that came between the check and the beginning.
    (run.path / name).rename(run.path.parent / "aside")
    experiment = prepare(tiny(), run, fresh=True)
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path.parent / "aside").rename(run.path / name)
    with pytest.raises(InputError, match=name):
        begin(experiment)
    assert everything_below(run.path) == before


def test_a_link_out_of_a_run_is_not_followed_by_starting_over(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "step-000000001.pt").write_text("another's")
    (run.path / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="other files in it: linked"):
        prepare(tiny(), run, fresh=True)
    assert (tmp_path / "elsewhere" / "step-000000001.pt").exists()


def test_a_run_of_before_data_json_was_marked_goes_on_and_starts_over(run):
    data = {key: value for key, value in run.data().items() if not key.startswith("format")}
    (run.path / "data.json").write_text(json.dumps(data))
    assert Run.open(run.path).last_step() == 20
    begin(prepare(tiny(), run, fresh=True))
    assert run.data()["format"] == "ndsm-run"
    (run.path / "data.json").write_text(json.dumps({**run.data(), "format_version": 3}))
    with pytest.raises(InputError, match="expected a run of format 2 or before, found one of format 3"):
        run.scaling()


@pytest.mark.parametrize("deleted", range(0, 12, 3))
def test_starting_over_that_is_killed_can_be_repeated(run, monkeypatch, deleted):
    experiment, done = prepare(tiny(), run, fresh=True), []
    unlink = Path.unlink

    def dying(path, missing_ok=False):
        if len(done) == deleted:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(KeyboardInterrupt):
            begin(experiment)
    # By the same command, and by one that was not told to start over.
    begin(prepare(tiny(), run, fresh=deleted == 0))
    assert run.find_checkpoint() is None
    assert run.exists()


def test_starting_over_replaces_a_run(run):
    experiment = prepare(tiny({"network.width": 9}), run, fresh=True)
    assert (run.path / "model.safetensors").exists()
    begin(experiment)
    assert run.config().network.width == 9
    assert run.find_checkpoint() is None
    assert not (run.path / "model.safetensors").exists()


def test_a_crash_after_the_last_checkpoint_still_leads_to_a_model(tmp_path, monkeypatch):
    experiment = prepare(tiny(), Run(tmp_path / "run"))
    begin(experiment)

    def crash(*args):
        raise OSError("killed")

    with monkeypatch.context() as m:
        m.setattr(Run, "save_weights", crash)
        with pytest.raises(OSError, match="killed"):
            list(train_locally(experiment))
    list(train_locally(prepare(tiny(), experiment.run)))
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_an_evaluation_ends_with_the_weights_it_is_of(run, tmp_path):
    run.write_evaluation({"n": 10})
    begin(prepare(tiny(), run))
    assert run.evaluation() is None
    # One that is made while the run trains is of the weights of an earlier stop.
    experiment = prepare(tiny(), Run(tmp_path / "new"))
    begin(experiment)
    for record in train_locally(experiment):
        if not record.final:
            experiment.run.write_evaluation({"n": 10})
    assert experiment.run.evaluation() is None


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run directory"):
        Run.open(tmp_path / "nothing")


def test_a_run_without_weights_says_so(run):
    (run.path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not finished training"):
        TrainedModel.of(run)


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "reference.safetensors", "reference.json", "data.json"]
)
def test_a_damaged_file_is_named(run, name, damage):
    path = run.path / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        TrainedModel.of(run)


@pytest.mark.parametrize(
    "content", [b"", b"train: [1, 2", b"- 1", b"\xff\xfe\x00", b"train: 5", b"train: {steps: none}", b"5: 6"]
)
def test_a_damaged_configuration_is_named(run, content):
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        run.config()


def test_weights_of_another_architecture_are_refused(run, tmp_path):
    other = tiny({"network.width": 9})
    experiment = prepare(other, Run(tmp_path / "other"))
    with pytest.raises(
        InputError, match=r"model\.safetensors: expected the weights of its config\.yaml's network"
    ):
        run.load_weights(experiment.problem.model(torch.device("cpu")))


def test_metrics_are_read_by_whole_lines(run):
    lines, position = run.metrics_since(0)
    assert position == run.metrics_end()
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 30}\n{"step": ')
    more, position = run.metrics_since(position)
    assert more == [{"step": 30}]
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write("40}\n")
    assert run.metrics_since(position)[0] == [{"step": 40}]
    assert len(lines) == 2


def test_data_json_describes_the_rows(run):
    data = json.loads((run.path / "data.json").read_text())
    assert (data["rows"], data["validation_rows"], data["dimension"]) == (450, 50, 2)
    assert run.schema().dimension_names == ["x0", "x1"] or tuple(run.schema().dimension_names) == ("x0", "x1")
