"""Commands about the installation: completion, presets, what the machine has."""

import os
from collections.abc import Sequence

from ndsm.config import about_preset, preset_names
from ndsm.core.cores import usable_cores


def completion_command(args: Sequence[str]) -> None:
    """`ndsm completion bash|zsh`."""
    import contextlib
    import io
    import re

    from ndsm.cli.app import COMMANDS
    from ndsm.cli.completion import completion_script

    words = {}
    for name, (command, _) in COMMANDS.items():
        words[name] = {"completion": ["bash", "zsh"], "bench": ["variance"]}.get(name, [])
        page = io.StringIO()
        # The help text has the options of every command, whatever they are made from.
        if name not in ("completion", "presets", "doctor"):
            with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
                command([*words[name], "--help"])
        found = sorted(set(re.findall(r"--[a-z](?:[\w.-]*\w)?", page.getvalue())))
        presets = preset_names() if "--data.name" in found else []
        words[name] = [*words[name], *presets, *found]
    print(completion_script(args[0] if args else "nothing", words), end="")


def presets_command(args: Sequence[str]) -> None:
    """`ndsm presets`."""
    for name in preset_names():
        print(f"{name:14} {about_preset(name)}")


def doctor_command(args: Sequence[str]) -> None:
    """`ndsm doctor`."""
    import torch

    from ndsm.core.versions import versions

    for package, version in versions().items():
        print(f"{package} {version}")
    cores, there = usable_cores(), os.cpu_count() or 1
    limited = (
        f" of the machine's {there}, by this process's binding or its container's limit"
        if cores < there
        else ""
    )
    print(f"{cores} cores{limited}")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(names) if names else 'none; training runs on the CPU'}")
    from pipelines.cluster import cluster

    with cluster() as found:
        print(
            f"Ray answers: {found.cpus:g} CPUs, {found.gpus:g} GPUs, object store {found.object_store / 2**30:.1f} GB"
        )
