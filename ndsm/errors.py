"""What goes wrong because of what was given, told apart from what goes wrong later."""


class InputError(ValueError):
    """Bad input: one sentence that says what was expected, what was found and where.

    The command line prints the sentence without a traceback and exits with code 2; nothing has been
    written when it is raised.
    """
