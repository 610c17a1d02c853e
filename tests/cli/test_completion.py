"""The completion script completes in a real shell."""

import shutil
import subprocess

import pytest

from ndsm.cli import main
from ndsm.cli.app import COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("shell") / "ndsm"
    path.write_text(out.getvalue())
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["ndsm", "tr"], {"train"}),
        (["ndsm", "train", "toy"], {"toy-arcs"}),
        (["ndsm", "train", "digits", "--train.l"], {"--train.lr", "--train.lr-schedule"}),
        (["ndsm", "sample", "runs/x", "--n"], {"--n", "--noise"}),
        (["ndsm", "completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes(script, line, expected):
    words = " ".join(f"'{word}'" for word in line)
    ask = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _ndsm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_its_script(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    ask = f"autoload -U +X compinit && compinit -u -D\n{script}\nwhence -w _ndsm"
    done = subprocess.run(["zsh", "-f", "-c", ask], check=False, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("_ndsm: function", "")


def test_every_command_is_completed(script):
    text = script.read_text()
    assert all(f"        {name}) " in text for name in COMMANDS)


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "expected bash or zsh, found 'tcsh'" in capsys.readouterr().err
