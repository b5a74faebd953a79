"""Runs tests in forks of a process that has imported what takes long but nothing of the package.

Reads one test a line, with the file its output goes to before it and a tab between; answers each with pytest's exit status.
"""

import os
import sys

import accelerate  # noqa: F401
import peft  # noqa: F401
import pytest
import sklearn.feature_extraction.text  # noqa: F401
import statsmodels.api  # noqa: F401
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401
from scipy import stats  # noqa: F401

torch.set_num_threads(1)
UNUSED = ("cacheprovider", "hypothesispytest", "anyio", "xdist", "unraisableexception")
"""Plugins that no test needs, and that together take longer than most tests."""
OPTIONS = ["-q", "-x", *(word for plugin in UNUSED for word in ("-p", f"no:{plugin}"))]

for line in sys.stdin:
    output, *tests = line.rstrip("\n").split("\t")
    child = os.fork()
    if not child:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = pytest.main([*OPTIONS, *tests])
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
