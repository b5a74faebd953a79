"""The one exception that means "the input is wrong": the command line prints it as one sentence and exits with status 2."""


class InputError(ValueError):
    """Bad input from outside: a file, an adapter, a config. Its message names the thing, the fault and the remedy."""
