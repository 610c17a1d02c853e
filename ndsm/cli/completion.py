"""Shell completion of commands, presets and options, as a script that the shell reads once."""

import shlex
from collections.abc import Mapping, Sequence

from ndsm.errors import InputError

_BASH = """\
_ndsm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W {commands} -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
}}
complete -o default -F _ndsm ndsm
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def completion_script(shell: str, words: Mapping[str, Sequence[str]]) -> str:
    """The script of a shell; file names are completed where none of the words fits.

    Args:
        shell: `bash` or `zsh`.
        words: what may follow each command.

    Raises:
        InputError: another shell.
    """
    if shell not in ("bash", "zsh"):
        raise InputError(f"completion: expected bash or zsh, found {shell!r}")
    cases = "\n".join(
        f'        {name}) COMPREPLY=($(compgen -W {shlex.quote(" ".join(follow))} -- "$word")) ;;'
        for name, follow in words.items()
    )
    script = _BASH.format(commands=shlex.quote(" ".join(words)), cases=cases)
    return script if shell == "bash" else _ZSH + script
