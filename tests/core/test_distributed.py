"""Two ranks with half of the pixels each reach what one process reaches with all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vpl_plugin import fit_vision_prototypes
from vpl_plugin.core.distributed import sum_over_ranks

RANK = """
import sys
import torch
from vpl_plugin import fit_vision_prototypes
from vpl_plugin.core.distributed import sum_over_ranks

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
held = torch.load(f"{folder}/data.pt", weights_only=True)
# Unequal shares, as photos differ in size.
mine = slice(0, 70) if rank == 0 else slice(70, None)
fit = fit_vision_prototypes(
    held["features"][mine],
    held["text"],
    targets=held["targets"][mine],
    weights=held["weights"][mine],
    iterations=25,
    tolerance=0,
    anchor=0.3,
    reduce=sum_over_ranks,
)
torch.save(
    {"W": fit.prototypes, "losses": fit.losses, "entropy": fit.target_entropy},
    f"{folder}/{rank}.pt",
)
torch.distributed.destroy_process_group()
"""


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = {
        "features": torch.randn(200, 16, generator=generator).double(),
        "text": torch.randn(6, 16, generator=generator).double(),
        "targets": torch.rand(200, 6, generator=generator).double().softmax(dim=1),
        "weights": torch.rand(200, generator=generator).double(),
    }
    torch.save(data, tmp_path / "data.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["W"], second["W"])
    fit = fit_vision_prototypes(
        data["features"],
        data["text"],
        targets=data["targets"],
        weights=data["weights"],
        iterations=25,
        tolerance=0,
        anchor=0.3,
    )
    torch.testing.assert_close(first["W"], fit.prototypes, rtol=0, atol=1e-9)
    torch.testing.assert_close(first["losses"], fit.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(first["entropy"], fit.target_entropy)


def test_outside_a_process_group_the_remedy_is_named() -> None:
    with pytest.raises(RuntimeError, match="run under torchrun"):
        sum_over_ranks(torch.zeros(1))
