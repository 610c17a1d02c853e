"""Files appear whole or not at all."""

import pytest

from ndsm.core.atomic_file import whole_file, write_whole


def test_a_file_appears_when_the_context_ends(tmp_path):
    target = tmp_path / "new folder" / "file"
    with whole_file(target) as path:
        path.write_bytes(b"a")
        assert not target.exists()
    assert target.read_bytes() == b"a"
    assert list(target.parent.iterdir()) == [target]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(OSError, match="full"), whole_file(tmp_path / "file") as path:  # noqa: PT012
        path.write_bytes(b"half of the ne")
        raise OSError("full")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
