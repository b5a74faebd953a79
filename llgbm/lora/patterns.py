"""Regular expressions from files, matched in bounded time: `re` may take longer than any machine lives."""

import re

import regex

from llgbm.errors import InputError

PATIENCE_S = 1.0
"""Seconds one pattern may take on one name."""
LONGEST = 1000
"""Characters; compiling takes time and memory too."""


def fully_matches(pattern: str, name: str) -> bool:
    """`re.fullmatch`, or a reason why not.

    Raises:
        InputError: The pattern is broken, too long, or takes too long; a clause for the caller's sentence.
    """
    if len(pattern) > LONGEST:
        raise InputError(f"is {len(pattern)} characters long, more than the {LONGEST} that are matched")
    try:
        re.compile(pattern)
        return regex.fullmatch(pattern, name, timeout=PATIENCE_S) is not None
    except TimeoutError as error:
        raise InputError(f"takes over {PATIENCE_S:g} s on {name}") from error
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise InputError(f"is no regular expression ({error})") from error
