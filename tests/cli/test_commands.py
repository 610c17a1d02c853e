"""The command line as a user meets it: subprocesses, exit codes, sentences."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ndsm.cli import main
from ndsm.cli.options import TrainOptions, parse_with_preset
from ndsm.config import preset_names
from ndsm.reproduce import STUDIES
from ndsm.runs import Run

TINY = [
    "--data.n", "400", "--train.steps", "60", "--train.batch-rows", "32", "--train.block-mb", "0.02",
    "--evaluate.n", "200", "--sample.steps", "200", "--train.report-seconds", "0.1", "--reference.n-init", "1",
]  # fmt: skip
LONG = ["--data.n", "400", "--train.steps", "1000000", "--train.batch-rows", "32", "--train.block-mb", "0.02",
        "--train.report-seconds", "0.1", "--train.checkpoint-seconds", "0.5", "--reference.n-init", "1"]  # fmt: skip


STARTED: list[subprocess.Popen[str]] = []
"""Processes of the present test."""


def start(*args: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "ndsm", *map(str, args)],
        cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _nothing_goes_on():
    """A test that fails leaves no process behind."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    process = start(*args, cwd=cwd)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def steps_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]


def wait_for(condition, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until the condition holds; pytest's own limit ends a wait for ever."""
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended meanwhile: {process.communicate()}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A folder with a table, and a run trained on it locally."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "temperature": pa.array(rng.normal(20, 3, 500), pa.float64()),
            "count": pa.array(rng.integers(0, 50, 500), pa.int32()),
            "pressure": pa.array(rng.normal(1000, 10, 500).astype("f"), pa.float32()),
        }
    )
    pq.write_table(table, folder / "my.parquet")
    done = run(
        "train", "table-langevin", "--data.path", "my.parquet", "--name", "mine", "--local", *TINY, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_train_writes_the_promised_files(table_run):
    found = {p.name for p in (table_run / "runs" / "mine").iterdir()}
    expected = {
        "config.yaml", "reference.safetensors", "reference.json", "model.safetensors", "model-raw.safetensors",
        "metrics.jsonl", "metrics.json", "samples.png", "checkpoints", "data.json", "versions.json",
        "examples.safetensors", "report.html",
    }  # fmt: skip
    assert expected <= found
    metrics = json.loads((table_run / "runs" / "mine" / "metrics.json").read_text())
    assert {"n", "swd2", "swd2_floor", "prior"} <= metrics.keys()
    line = json.loads((table_run / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()[-1])
    promised = {
        "step", "seconds", "loss", "grad_norm", "steps_per_s", "rollout_rows_per_s", "stall_fraction",
        "samples_per_insert",
    }  # fmt: skip
    assert promised <= line.keys()
    assert line["step"] == 60


def test_samples_have_the_schema_and_range_of_the_data(table_run):
    done = run("sample", "runs/mine", "--n", 300, "--out", "s.parquet", "--steps", 250, cwd=table_run)
    assert done.returncode == 0, done.stderr
    samples, data = pq.read_table(table_run / "s.parquet"), pq.read_table(table_run / "my.parquet")
    assert samples.schema.equals(data.schema)
    assert samples.num_rows == 300
    assert abs(np.mean(samples["pressure"]) - 1000) < 10


def test_an_option_value_that_is_a_presets_name_is_not_taken_for_the_preset(table_run, monkeypatch, capsys):
    monkeypatch.chdir(table_run)
    # Taken for toy-arcs, the path would be refused, and digits' own error would not be the one that is seen.
    assert main(["train", "--name", "toy-arcs", "vectors", "--local", "--data.path", "absent.parquet"]) == 2
    assert "absent.parquet" in capsys.readouterr().err
    assert main(["train", "--name", "toy-arcs", "digits", "--local", "--reference.n-components", "5000"]) == 2
    assert "expected at most the 1438 rows" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--data.standardize", "false"], ["--data.standardize=false"]])
def test_values_are_spelled_as_in_yaml(words):
    options = parse_with_preset("train", TrainOptions, ["toy-arcs", *words, "--process.last_dt=null"])
    assert options.config.data.standardize is False
    assert options.config.process.last_dt is None


def test_a_wrong_command_prints_no_traceback(tmp_path):
    done = run("sample", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ndsm: nowhere: expected a run directory with a config.yaml, found none\n"


def test_the_same_command_again_says_the_run_is_complete(table_run):
    args = ["train", "table-langevin", "--data.path", "my.parquet", "--name", "mine", "--local", *TINY]
    done = run(*args, cwd=table_run)
    assert done.returncode == 0
    assert "mine is complete at step 60" in done.stdout


def test_a_complete_run_is_evaluated_again_as_other_options_say(table_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(table_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    args = [
        "train",
        "table-langevin",
        "--data.path",
        "my.parquet",
        "--name",
        "mine",
        "--local",
        "--quiet",
        *TINY,
    ]
    args += ["--sample.sampler", "exponential", "--evaluate.n", "70"]
    assert main(args) == 0
    assert json.loads((folder / "metrics.json").read_text())["n"] == 70
    config = Run(folder).config()
    assert (config.sample.sampler, config.evaluate.n, config.train.steps) == ("exponential", 70, 60)
    evaluated = (folder / "metrics.json").stat().st_mtime_ns
    assert main(args) == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == evaluated
    # A picture that could not be made is made by the same command.
    (folder / "samples.png").unlink()
    assert main(args) == 0
    assert (folder / "samples.png").is_file()


def test_a_folder_below_a_file_is_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("")
    assert main(["train", "toy-arcs", "--local", "--out", "afile", "--quiet", *TINY]) == 2
    assert "afile/toy-arcs: expected a folder that can be written to, found" in capsys.readouterr().err


def test_evaluate_rewrites_metrics_and_report(table_run):
    page = table_run / "runs" / "mine" / "report.html"
    before = page.read_text()
    done = run("evaluate", "runs/mine", "--n", 150, cwd=table_run)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((table_run / "runs" / "mine" / "metrics.json").read_text())
    assert metrics["n"] == 150
    shown = f"{metrics['swd2']:.4g}"
    assert shown not in before
    assert shown in page.read_text()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train", "nothing"], "no preset 'nothing'"),
        (["train", "table-langevin", "--local"], "data.path is missing"),
        (["train", "table-langevin", "--local", "--data.path", "absent.parquet"], "absent.parquet"),
        (["train", "table-langevin", "--local", "--data.path", "my.parquet", "--data.columns", "temprature"], "temperature"),
        (["train", "digits", "--local", "--train.lr", "-1"], "lr: Input should be greater than 0"),
        (["train", "digits", "--local", "--train.lrr", "1"], "--train.lr"),
        (["train", "digits", "--local", "--process.integrator", "euler-maruyama", "--process.grid.kind", "uniform",
          "--process.grid.steps", "5"], "unstable"),
        (["train", "digits", "--local", "--reference.n-components", "5000"], "5000"),
        (["train", "digits", "--train.simulators", "5000"], "CPUs"),
        (["train", "table-langevin", "--data.path", "my.parquet", "--name", "mine", "--local", "--train.lr", "0.5"],
         "train.lr (0.001 before, 0.5 now)"),
        (["sample", "runs/none"], "runs/none: expected a run directory"),
        (["sample", "runs/mine", "--out", "s.xlsx"], "s.xlsx"),
        (["sample", "runs/mine", "--n", "0"], "--n"),
        (["sample", "runs/mine", "--steps", "3"], "steps"),
        (["sample", "runs/mine", "--sampler", "odd"], "invalid choice 'odd'"),
        (["reproduce", "fig9"], "invalid choice 'fig9'"),
        (["reproduce", "fig2", "--scale", "2"], "--scale: expected more than 0 and at most 1, found 2"),
        (["dance"], "no command 'dance'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(table_run, monkeypatch, capsys, args, sentence):
    # In this process: a subprocess for each would spend its time importing torch.
    monkeypatch.chdir(table_run)
    monkeypatch.setenv("COLUMNS", "200")
    before = sorted(table_run.rglob("*"))
    assert main(args) == 2
    err = capsys.readouterr().err
    assert sentence in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert sorted(table_run.rglob("*")) == before


def test_a_reader_that_had_enough_is_no_failure(tmp_path):
    """As `ndsm presets | head -1`."""
    process = start("presets", cwd=tmp_path)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")


def test_interrupt_saves_and_the_same_command_resumes(tmp_path):
    args = ["train", "toy-arcs", "--local", *LONG]
    # The standard output is for the JSON object, which a run that stops has none of.
    process = start(*args, "--json", cwd=tmp_path)
    folder = tmp_path / "runs" / "toy-arcs"
    wait_for(lambda: len(steps_of(folder)) >= 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    stopped = steps_of(folder)[-1]
    assert out == ""
    assert f"stopped at step {stopped}" in err
    assert (folder / "checkpoints" / f"step-{stopped:09d}.pt").exists()
    process = start(*args, cwd=tmp_path)
    wait_for(lambda: steps_of(folder)[-1] > stopped, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert f"resuming toy-arcs at step {stopped}" in out


def test_a_terminating_signal_saves_too_and_has_an_exit_code_of_its_own(tmp_path):
    """What batch systems send before they kill; another one, as of a terminal that closes, changes nothing."""
    process = start("train", "toy-arcs", "--local", *LONG, "--train.checkpoint-seconds", "1000", cwd=tmp_path)
    folder = tmp_path / "runs" / "toy-arcs"
    wait_for(lambda: len(steps_of(folder)) >= 2, process)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        process.send_signal(signum)
        wait_for(lambda: list((folder / "checkpoints").glob("step-*.pt")) or process.poll() is not None)
    out, err = process.communicate()
    assert process.returncode == 143, err
    assert "SIGTERM came: saving a checkpoint" in err
    stopped = steps_of(folder)[-1]
    assert f"stopped at step {stopped}" in out
    assert "a checkpoint is saved; the same command goes on" in out
    assert [int(p.stem[5:]) for p in (folder / "checkpoints").glob("step-*.pt")] == [stopped]
    assert not (folder / "checkpoints" / "stop").exists()


@pytest.mark.ray
@pytest.mark.nightly
def test_kill_9_of_the_driver_then_the_run_goes_on_from_the_last_checkpoint(tmp_path):
    """Its second sitting is this process alone: where a run is trained is not part of it."""
    args = ["train", "toy-arcs", *LONG]
    folder = tmp_path / "runs" / "toy-arcs"
    process = start(*args, cwd=tmp_path)
    wait_for(lambda: len(list((folder / "checkpoints").glob("step-*.pt"))) == 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's own processes notice the driver's death by themselves; the checkpoint no longer moves then.
    time.sleep(3)
    last = max(int(p.stem.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*.pt"))
    assert "Ray dashboard: http://127.0.0.1:" in process.communicate()[0]
    process = start(*args, "--local", cwd=tmp_path)
    wait_for(lambda: steps_of(folder)[-1] > last, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert f"resuming toy-arcs at step {last}" in out
    assert process.returncode == 130, err


def test_each_command_prints_one_object_and_nothing_else(table_run, monkeypatch, capsys):
    monkeypatch.chdir(table_run)
    columns = {"temperature": [20.0, 18.0], "count": [7, 20], "pressure": [1000.0, 990.0]}
    pq.write_table(pa.table(columns), "few.parquet")
    pq.write_table(pa.table({**columns, "pressure": [None, 990.0]}), "gaps.parquet")
    sample, given = ["sample", "runs/mine", "--n", "20", "--steps", "100"], ["--given", "temperature=20"]
    bench = [
        "bench",
        "variance",
        "toy-arcs",
        "--data.n",
        "300",
        "--n",
        "100",
        "--steps",
        "5",
        "--objectives",
        "ndsm-eps0",
    ]
    expected = [
        ([*sample, "--out", "j.npy"], {"out": "j.npy", "rows": 20}),
        ([*sample, "--out", "g.npy", *given], {"out": "g.npy", "rows": 20}),
        ([*sample, "--out", "parts", "--local"], {"out": "parts", "rows": 20, "files": 1}),
        (["score", "runs/mine", "few.parquet"], {"out": "logp.parquet", "rows": 2}),
        (["impute", "runs/mine", "gaps.parquet", "--steps", "5"], {"out": "imputed.parquet", "draws": 1, "rows": 2}),
        (["report", "runs/mine"], {"out": "runs/mine/report.html"}),
        ([*bench, "--reference.n-init", "1", "--train.block-mb", "0.02"], {"preset": "toy-arcs", "n": 100}),
    ]  # fmt: skip
    for args, known in expected:
        assert main([*args, "--json"]) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert {key: found[key] for key in known} == known
        # Warnings are not progress.
        assert all(line.startswith("ndsm: warning: ") for line in printed.err.splitlines())


def test_quiet_commands_print_their_result_alone(table_run, monkeypatch, capsys):
    monkeypatch.chdir(table_run)
    sample = ["sample", "runs/mine", "--n", "5", "--steps", "100", "--out", "q.npy"]
    assert main([*sample, "--quiet"]) == 0
    assert capsys.readouterr() == ("5 rows in q.npy\n", "")
    # What is not quiet says what it does, beside its result.
    assert main(sample) == 0
    out, err = capsys.readouterr()
    assert out == "5 rows in q.npy\n"
    assert err.startswith("sampling 5 rows\n")


def test_an_experiment_is_interrupted_and_taken_up_again_to_its_table(tmp_path, monkeypatch, capsys):
    tiny = {
        "data.n": 200, "reference.n_init": 1, "sample.steps": 40, "train.block_mb": 0.1, "train.report_seconds": 1e-9,
    }  # fmt: skip
    study = STUDIES["fig2"]
    study = replace(study, runs=1, rows=(("ndsm-eps0", {}),), fields={**study.fields, **tiny}, moments=2)
    monkeypatch.setitem(STUDIES, "fig2", study)
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "fig2", "--scale", "0.004", "--local"]
    run = tmp_path / "reproduce" / "fig2" / "runs" / "ndsm-eps0-0"

    def interrupt() -> None:
        wait_for(lambda: steps_of(run))
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    assert main(command) == 130
    pressing.join()
    said = capsys.readouterr()
    assert "0 of 1 runs done; results in reproduce/fig2" in said.out
    assert "saving checkpoints" in said.err
    assert "stopped: 0 of 1 runs done; the same command goes on" in said.out
    assert (run / "checkpoints" / f"step-{steps_of(run)[-1]:09d}.pt").exists()
    clock = json.loads((run / "clock.json").read_text())
    assert clock["step"] == steps_of(run)[-1] < 200
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "1/1 ndsm-eps0" in out
    assert "true data (floor)" in out
    assert {"results.json", "figure.png"} <= {p.name for p in (tmp_path / "reproduce" / "fig2").iterdir()}
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    prior, row = found["rows"]
    assert (prior["row"], row["row"], row["steps"]) == ("prior", "ndsm-eps0", 200)
    # The time before the interruption counts.
    assert row["cpu_seconds"] > clock["cpu_seconds"] > 0
    assert [line["step"] for line in row["curve"]] == [100, 200]


def test_version_and_presets(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ndsm {version('ndsm')}\n"
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 3 for line in lines)


def test_bench_variance_writes_the_promised_json(tmp_path):
    args = [
        "bench",
        "variance",
        "toy-arcs",
        "--data.n",
        "400",
        "--n",
        "400",
        "--steps",
        "20",
        "--out",
        "v.json",
    ]
    done = run(*args, "--train.block-mb", "0.1", "--reference.n-init", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "v.json").read_text())
    assert set(found["objectives"]) == {"ndsm-eps0", "ndsm-eps1", "ndsm-cv", "antithetic", "path"}
    for row in found["objectives"].values():
        assert len(row["fifths"]) == 5
        assert row["total"] > 0
        assert row["mean_gap_se"] < 4
    assert len(found["epsilon"]["ndsm-cv"]["t"]) == len(found["epsilon"]["ndsm-cv"]["eps"])
    assert found["objectives"]["ndsm-eps1"]["total"] > 3 * found["objectives"]["ndsm-eps0"]["total"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["bench", "variance", "toy-arcs", "--objectives", "pfad"], "--objectives: expected some of"),
        (["bench", "speed", "toy-arcs"], "expected 'variance', found 'speed'"),
        (["bench", "variance", "toy-arcs", "--out", "."], "--out: expected a file name, found the folder ."),
        (
            ["train", "toy-arcs", "--objective.kind", "ndsm", "--objective.epsilon.kind", "network"],
            "no control variate",
        ),
        (["train", "toy-arcs", "--objective.kind", "ndsm-cv", "--objective.epsilon.every", "0"], "every"),
        (["train", "toy-arcs", "--objective.kind", "dsm"], "transition law is known"),
    ],
)
def test_wrong_objectives_are_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, args, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(args) == 2
    assert sentence in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_an_objective_that_the_process_does_not_allow_is_said_before_the_work(monkeypatch, capsys):
    monkeypatch.setattr(
        "ndsm.workflows.gradient_variance.load", lambda *settings: pytest.fail("the data were read")
    )
    process = ["--process.kind", "vp", "--process.horizon", "1", "--process.integrator", "euler-maruyama"]
    assert main(["bench", "variance", "toy-arcs", *process, "--objectives", "ndsm-cv,path"]) == 2
    assert "objective.kind 'path' goes with process.kind 'langevin'" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.nightly
def test_ray_address_joins_a_running_cluster_and_sigterm_saves_and_leaves_it_running(tmp_path):
    """Ray's own handler would end the process before anything is saved."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        process = start("train", "toy-arcs", *LONG, cwd=tmp_path, RAY_ADDRESS=cluster.address)
        folder = tmp_path / "runs" / "toy-arcs"
        wait_for(lambda: len(steps_of(folder)) >= 2, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        assert process.returncode == 143, err
        stopped = steps_of(folder)[-1]
        assert f"stopped at step {stopped}" in out
        assert (folder / "checkpoints" / f"step-{stopped:09d}.pt").exists()
        assert not cluster.head_node.dead_processes()
    finally:
        cluster.shutdown()
