"""How memory is measured and divided: peaks against counts by hand, blocks that cover all rows once, fewer rows when it ran out."""

import pytest
import torch

from llgbm.errors import InputError
from llgbm.memory import GIB, MemoryPlan, free_bytes, peak_bytes, used_bytes


def test_freed_tensors_no_longer_count() -> None:
    def work() -> None:
        x = torch.zeros(1000)
        y = x + 1
        del x
        z = y * 2  # two alive, as before
        del y, z
        torch.zeros(500)

    assert peak_bytes(work) == 2 * 4000


def test_views_and_what_was_there_before_are_free() -> None:
    old = torch.zeros(1000)
    assert peak_bytes(lambda: old.view(10, 100).mT[2:].add_(1)) == 0
    assert peak_bytes(lambda: (old + 1).view(10, 100).mT) == 4000


def test_backward_counts() -> None:
    weights = torch.ones(1000, requires_grad=True)
    assert peak_bytes(lambda: weights.exp().sum()) == 4004
    assert peak_bytes(lambda: weights.exp().sum().backward()) >= 8000
    assert weights.grad is not None


def test_budget_counts_what_is_loaded_and_lowers_the_rows(caplog):
    caplog.set_level("INFO", logger="llgbm")
    device = torch.device("cpu")
    loaded = used_bytes(device)
    plan = MemoryPlan(device, memory_gb=(loaded + (1 << 28)) / GIB)
    assert 0 < plan.free_bytes() <= 1 << 28
    rows = plan.at_once("work", 1 << 20, 1000, fixed_bytes=1 << 26)
    assert 64 <= rows <= 1 + (0.75 * (1 << 28) - (1 << 26)) / (1 << 20)
    assert f"work takes {rows} rows at once (1000 would be the most), 1.0 MB each and 67 MB in any case" in caplog.text
    assert MemoryPlan(device).at_once("work", 1, 7) == 7


def test_a_budget_without_room_for_a_row_is_refused_where_work_begins() -> None:
    device = torch.device("cpu")
    plan = MemoryPlan(device, memory_gb=(used_bytes(device) + (1 << 28)) / GIB)
    for _ in range(2):
        with pytest.raises(InputError, match=r"memory_gb .* is too little: .* GiB are taken already, and one row of work takes 0\.31 more"):
            plan.at_once("work", 1 << 28, 100, fixed_bytes=1 << 26)
    assert plan.at_once("work", 1 << 20, 100) == 100
    assert plan.at_once("work", 1 << 28, 100, fixed_bytes=1 << 26) == 1  # it goes on as well as it can
    plan.agree = lambda number: 0
    with pytest.raises(InputError, match="one row of other work takes"):
        plan.at_once("other work", 1, 2)


def test_blocks_are_whole_groups_or_parts_of_one():
    plan = MemoryPlan("cpu")
    for at_once in (1, 2, 3, 4, 7, 8, 100):
        blocks = plan.run("work", 5, 4, at_once, lambda groups, rows: (groups, rows))
        assert [(g, r) for groups, rows in blocks for g in groups for r in rows] == [(g, r) for g in range(5) for r in range(4)]
        assert all(len(groups) * len(rows) <= at_once and (len(groups) == 1 or len(rows) == 4) for groups, rows in blocks)


def test_out_of_memory_halves_and_goes_on():
    def work(groups, rows):
        if len(groups) * len(rows) > 3:
            torch.empty(1 << 60, dtype=torch.uint8)  # the system refuses this
        return [(g, r) for g in groups for r in rows]

    plan = MemoryPlan("cpu")
    done = plan.run("work", 3, 4, 12, work)
    assert [pair for block in done for pair in block] == [(g, r) for g in range(3) for r in range(4)]
    assert plan.at_once("work", 1, 100) == 2


def test_one_row_too_much_is_a_fault_and_other_faults_pass_through():
    def refuse(groups, rows):
        torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(InputError, match=r"not even one row of work fits into memory \(.*memory.*\); free memory, or use shorter examples"):
        MemoryPlan("cpu").run("work", 2, 2, 4, refuse)
    with pytest.raises(RuntimeError, match="shape"):
        MemoryPlan("cpu").run("work", 1, 1, 1, lambda groups, rows: torch.ones(2) @ torch.ones(3, 1))


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr("llgbm.memory.CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 600_000
    (tmp_path / "memory.stat").write_text("anon 100000\nfile 300000\nactive_file 100000\ninactive_file 200000\n")
    assert free_bytes(torch.device("cpu")) == 800_000  # pages of files that the kernel gives back
