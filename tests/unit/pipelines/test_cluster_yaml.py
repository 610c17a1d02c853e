"""The files that start clusters are valid, and agree with pyproject.toml, with the code and with one another."""

import copy
import json
import os
import re
import runpy
import shlex
import subprocess
import tomllib
import zipfile
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from packaging.requirements import Requirement

from ndsm.cli.options import TrainOptions, parse_with_preset
from pipelines.resources import SIMULATOR, TRAINER
from pipelines.versions import DECIDE_NUMBERS

ROOT = Path(__file__).parents[3]


def validated(config):
    """The cluster file with Ray's defaults filled in; raises if Ray would refuse it.

    Ray has no public check, so its private one is used here and nowhere else. It asks no cloud: instance
    types and image names are not checked.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file(cluster):
    prepared = validated(cluster)
    assert set(prepared["available_node_types"]) == {"head", "simulator", "trainer"}


def test_ray_refuses_a_misspelt_key(cluster):
    cluster["available_node_types"]["simulator"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validated(cluster)


def test_head_offers_no_cpu_and_simulators_are_spot(cluster):
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["simulator"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in types["trainer"]["node_config"]


def constraints():
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    return {r.name: str(r.specifier).removeprefix("==") for r in pinned}


def test_nodes_get_one_version_that_the_project_accepts_of_what_has_to_be_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    pinned = constraints()
    assert {"ray", *DECIDE_NUMBERS} - {"ndsm"} <= pinned.keys()
    assert all(required[name].contains(version) for name, version in pinned.items())


def test_every_installation_on_a_node_keeps_to_the_constraints():
    for name in ("cluster.yaml", "deploy/cluster-on-premise.yaml", "deploy/Dockerfile"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        installing = [line for line in lines if "pip install" in line]
        assert installing
        for line in installing:
            assert re.search(r" -c /home/ray/(ndsm/deploy/)?constraints.txt ", line), line
            # No version beside those of the file.
            assert not re.search(r"[<>=]=?\d", line), line


def test_dashboard_and_metrics_are_where_the_documentation_says(cluster, on_premise, rayjob):
    for config in (cluster, on_premise):
        (head,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
        (worker,) = (c for c in config["worker_start_ray_commands"] if "ray start" in c)
        assert "--dashboard-host=127.0.0.1" in shlex.split(head)
        for command in (head, worker):
            assert "--metrics-export-port=8080" in shlex.split(command)
        assert "--head" in shlex.split(head)
        assert "--address=$RAY_HEAD_IP:6379" in shlex.split(worker)
    groups = rayjob["spec"]["rayClusterSpec"]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
    assert groups["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert "| 8080 | each node's metrics |" in page


def test_every_node_uses_the_token_that_it_is_given(cluster, on_premise, rayjob, rayjob_gpu):
    for config in (cluster, on_premise):
        assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for config in (rayjob, rayjob_gpu):
        assert config["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "\nENV RAY_AUTH_MODE=token\n" in (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def test_aws_profiles_exist_once_the_script_has_run_and_reach_the_bucket(cluster, monkeypatch):
    """Under moto, which keeps what is created but does not decide what a policy allows: that is read here."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    script = runpy.run_path(str(ROOT / "deploy" / "aws_storage.py"))
    with mock_aws():
        for _ in range(2):
            script["main"]("runs-of-mine", cluster["provider"]["region"])
        assert [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]] == ["runs-of-mine"]
        iam, may = boto3.client("iam"), {}
        for name, kind in cluster["available_node_types"].items():
            profile = kind["node_config"]["IamInstanceProfile"]["Name"]
            found = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]
            (role,) = found["Roles"]
            policy = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="ndsm")["PolicyDocument"]
            may[name] = {(a, on) for s in policy["Statement"] for a in s["Action"] for on in s["Resource"]}
            assert {
                ("s3:PutObject", "arn:aws:s3:::runs-of-mine/*"),
                ("s3:ListBucket", "arn:aws:s3:::runs-of-mine"),
            } <= may[name]
        assert ("iam:PassRole", role["Arn"]) in may["head"]
    assert may["simulator"] == may["trainer"]
    parameters = "arn:aws:ssm:*::parameter/aws/service/*"
    assert may["head"] - may["trainer"] == {
        ("ec2:*", "*"),
        ("iam:PassRole", role["Arn"]),
        ("ssm:GetParameters", parameters),
    }
    image = cluster["available_node_types"]["trainer"]["node_config"]["ImageId"]
    assert image.startswith("resolve:ssm:" + parameters.partition("::parameter")[2].removesuffix("*"))


@pytest.fixture
def on_premise():
    return yaml.safe_load((ROOT / "deploy" / "cluster-on-premise.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def rayjob():
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def rayjob_gpu():
    return yaml.safe_load((ROOT / "deploy" / "rayjob-gpu.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file_for_own_machines(on_premise):
    machines = len(on_premise["provider"]["worker_ips"])
    (kind,) = validated(on_premise)["available_node_types"].values()
    assert (kind["min_workers"], kind["max_workers"]) == (machines, machines)


def test_the_ray_jobs_have_the_fields_that_kuberay_knows(rayjob, rayjob_gpu):
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(rayjob)] == []
    assert [error.message for error in validator.iter_errors(rayjob_gpu)] == []
    rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    assert [error.message for error in validator.iter_errors(rayjob)] != []


@pytest.mark.skipif(
    "KUBERAY_CRD" not in os.environ, reason="needs KubeRay's ray.io_rayjobs.yaml as KUBERAY_CRD"
)
def test_the_ray_jobs_fit_kuberays_own_schema(rayjob, rayjob_gpu):
    crd = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text(encoding="utf-8"))
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    for job in (rayjob, rayjob_gpu):
        assert [error.message for error in validator.iter_errors(job)] == []
        job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
        assert [error.message for error in validator.iter_errors(job)] != []


def closed(schema):
    """A schema of Kubernetes by the rules of JSON Schema, in which objects have no other properties: those would be dropped."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: closed(part) for key, part in schema.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def test_the_ray_job_with_gpus_differs_in_its_trainers_alone(rayjob, rayjob_gpu):
    def trainer(job):
        return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]

    (container,) = trainer(rayjob_gpu)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "registry.example.com/ndsm:gpu"
    expected = copy.deepcopy(rayjob)
    trainer(expected).update(trainer(rayjob_gpu))
    assert expected == rayjob_gpu
    assert rayjob != rayjob_gpu


def test_all_files_offer_the_resources_that_the_code_asks_for(cluster, on_premise, rayjob):
    def offered(text):
        return set(re.findall(r'\\?"(\w+)\\?": ?[\d$]', text))

    aws = [set(kind["resources"]) for kind in cluster["available_node_types"].values()]
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    kubernetes = {group["groupName"]: offered(group["rayStartParams"]["resources"]) for group in groups}
    assert aws == [{"CPU"}, {SIMULATOR}, {TRAINER}]
    assert kubernetes == {"simulator": {SIMULATOR}, "trainer": {TRAINER}}
    assert offered(" ".join(on_premise["worker_start_ray_commands"])) == {SIMULATOR, TRAINER}


def test_the_command_of_the_ray_job_parses_and_fits_its_groups(rayjob):
    words = shlex.split(rayjob["spec"]["entrypoint"].partition("||")[0])
    assert words[:2] == ["ndsm", "train"]
    options = parse_with_preset("train", TrainOptions, words[2:])
    groups = {g["groupName"]: g for g in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert options.config.train.worker_range == (1, groups["trainer"]["maxReplicas"])
    mounted = groups["trainer"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"]
    assert str(options.out) == mounted
    assert options.config.train.simulators <= 8


def test_all_files_have_the_same_ray(rayjob):
    found = {rayjob["spec"]["rayClusterSpec"]["rayVersion"]}
    for name in ("cluster.yaml", "deploy/Dockerfile", "deploy/cluster-on-premise.yaml"):
        tags = re.findall(r"rayproject/ray:([\d.]+\d)", (ROOT / name).read_text(encoding="utf-8"))
        assert tags, name
        found.update(tags)
    assert found == {constraints()["ray"]}


def test_what_is_made_or_learned_from_is_not_sent_with_a_job(tmp_path):
    """Ray refuses more than some hundred megabytes; the package's own folder `data` goes along."""
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "project"
    left = ["data/rows.csv", "runs/mine/config.yaml", "tune/digits/best.yaml", "reproduce/fig2/results.json"]
    sent = ["ndsm/data/toys.py", "tuning/pool.py", "preset.yaml"]
    for name in (*left, *sent):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_text((ROOT / ".gitignore").read_text(encoding="utf-8"))
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True)
    names = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert names == {*sent, ".gitignore"}


def test_what_is_made_or_learned_from_is_not_copied_to_nodes(cluster, on_premise):
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for config in (cluster, on_premise):
        assert {"/data", "/reproduce", "/runs", "/tune"} <= set(config["rsync_exclude"])
        assert config["rsync_filter"] == [".gitignore"]
    assert {"/data/", "/reproduce/", "/runs/", "/tune/"} <= set(lines)


def test_the_slurm_job_is_told_of_its_end_in_time_and_may_be_queued_again():
    script = (ROOT / "deploy" / "slurm.sbatch").read_text(encoding="utf-8")
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert {"--signal=B:TERM@120", "--requeue", "--open-mode=append"} <= set(options)
    # Options after the first command count for nothing.
    assert script.index("set -euo pipefail") > script.rindex("#SBATCH")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_no_cluster_starts_without_a_token(cluster, on_premise, rayjob):
    for config in (cluster, on_premise):
        assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
