"""What goes wrong because of what was given, told apart from what goes wrong later."""


class InputError(ValueError):
    """Bad input: one sentence that says what was expected, what was found and where.

    The command line prints the sentence without a traceback and exits with code 2; nothing has been
    written when it is raised.
    """


class LeaseLost(RuntimeError):
    """Another process has taken over what this one was writing to: one sentence that says who; nothing more is written."""


class BadBlock(RuntimeError):
    """A block of training examples that cannot be simulated, where none may be left out: one sentence that names it and says why."""


class Unfinished(RuntimeError):
    """Work that ended without a result, and that the same command takes up again: one sentence that says why.

    The command line prints the sentence without a traceback and exits with code 1.
    """


def described(error: BaseException) -> str:
    """What failed a try: an `InputError` is a sentence already."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
