"""Real models and tasks that may lie beside a checkout, and the mark of tests that need them."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("LLGBM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} is not there; set LLGBM_SHARED_DATA to a folder with real models and tasks"
)
