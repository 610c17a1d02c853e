"""Machines that an autoscaler starts: a cluster may begin as a head alone, and what a command needs is then asked for."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from ndsm.errors import InputError
from pipelines.cluster import find_cluster
from pipelines.resources import Cluster, Waiting

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's file on the head."""
LOOK_SECONDS = 2.0
"""Between looks at what there is."""


def grown(
    found: Cluster,
    bundles: Sequence[Mapping[str, float]],
    check: Callable[[Cluster], object],
    limit: float,
    say: Callable[[str], None],
) -> Cluster:
    """Return a cluster that passes a check: the present one, or with an autoscaler what it becomes once it was asked for more.

    The request takes the place of an earlier one, and stands until `let_go` where the cluster is another one than before.

    Args:
        found: what the cluster has.
        bundles: what to ask for; custom resources that no type of machine offers are left out.
        check: raises `InputError` if a cluster is too small.
        limit: seconds to wait.
        say: told what is waited for.

    Raises:
        InputError: it is too small, and nothing can make it larger.
        Unfinished: it took too long.
    """
    try:
        check(found)
        return found
    except InputError:
        if not can_grow():
            raise
    offered = offered_by_types()
    asked = [_offered(bundle, offered) for bundle in bundles]
    waiting = Waiting(say, limit)
    counts = {_words(bundle): sum(_words(b) == _words(bundle) for b in asked) for bundle in asked}
    what = " and ".join(f"{count} x ({words})" for words, count in counts.items())
    request_resources(bundles=asked)
    try:
        while True:
            now = find_cluster()
            try:
                check(now)
                return now
            except InputError:
                waiting.on(
                    f"machines for {what}, which the autoscaler was asked for: there are {now.cpus:g} CPUs"
                )
            time.sleep(LOOK_SECONDS)
    except BaseException:
        let_go()
        raise


def let_go() -> None:
    """Withdraw the request for machines, once what it brought is in use: Ray keeps what was asked for, used or not."""
    request_resources(bundles=[])


def can_grow() -> bool:
    """Return whether an autoscaler can start machines; one that only watches has a type of its own for each machine."""
    if not ray.is_initialized():
        return False
    if is_autoscaler_v2():
        return True
    status = _internal_kv_get(b"__autoscaling_status")
    report: dict[str, Any] = (json.loads(status) if status else {}).get("autoscaler_report") or {}
    types: dict[str, str] = report.get("node_type_mapping") or {}
    return any(kind != f"node_{id}" for id, kind in types.items())


def offered_by_types() -> set[str] | None:
    """Return the resources that the cluster file's types of machines offer; None where there is no such file, as without `ray up`."""
    path = BOOTSTRAP.expanduser()
    if not path.is_file():
        return None
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name for kind in config["available_node_types"].values() for name in kind.get("resources", {})}


def _offered(bundle: Mapping[str, float], offered: set[str] | None) -> dict[str, float]:
    always = ("CPU", "GPU")
    return {
        name: each for name, each in bundle.items() if each and (name in always or name in (offered or ()))
    }


def _words(bundle: Mapping[str, float]) -> str:
    return ", ".join(f"{each:g} {name}" for name, each in bundle.items())
