"""Generation on a small Ray cluster."""

import pytest

from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.sample_shards import SampleRequest, ShardFolder
from ndsm.workflows.trained_model import TrainedModel

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_actors_write_the_files_of_one_process(ray_cluster, tmp_path, train_arcs):
    from pipelines.generate import generate_on_ray

    settings = {
        "data.n": 300,
        "network.width": 8,
        "network.depth": 1,
        "train.steps": 10,
        "train.device": "cpu",
    }
    made = train_arcs(Run(tmp_path / "run"), settings)
    request = SampleRequest(9000, steps=10, sampler="exponential", chunks_per_file=1)
    here, there = (ShardFolder(tmp_path / name, made.run, request) for name in ("here", "there"))
    for part in here.parts:
        here.make(TrainedModel.of(made.run), part)
    # One is there from an earlier sitting.
    there.make(TrainedModel.of(made.run), there.parts[1])
    written = []
    generate_on_ray(there, lambda part: written.append(part.file))
    assert sorted(written) == ["part-00000.parquet", "part-00002.parquet"]
    for part in here.parts:
        assert (there.path / part.file).read_bytes() == (here.path / part.file).read_bytes()
    # Another process changed the run meanwhile.
    (there.path / here.parts[0].file).unlink()
    (made.run.path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected model\.safetensors, found none"):
        generate_on_ray(there, lambda part: None)
