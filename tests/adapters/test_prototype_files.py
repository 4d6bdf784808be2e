"""Prototypes survive the way to disk and back; broken files say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vpl_plugin.adapters.prototype_files import load_prototypes, save_prototypes


def test_round_trip(tmp_path: Path) -> None:
    prototypes = torch.randn(3, 4)
    facts = {"model": "mini", "tau_I": 0.03, "classes": ["a", "b", "c"]}
    save_prototypes(tmp_path / "p.safetensors", prototypes.T.contiguous().T, facts)
    loaded, about = load_prototypes(tmp_path / "p.safetensors")
    assert torch.equal(loaded, prototypes)
    assert about == facts


def test_what_is_no_prototype_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in .safetensors; got '.*p.pt'"):
        save_prototypes(tmp_path / "p.pt", torch.zeros(2, 2), {})
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"broken.safetensors is not a readable safetensors file"):
        load_prototypes(broken)
    save_file({"other": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must hold a tensor 'prototypes' .* holds \['other'\]"):
        load_prototypes(tmp_path / "other.safetensors")
    save_prototypes(tmp_path / "cut.safetensors", torch.zeros(2, 2), {})
    for broken_json in ('{"model":', "[]"):
        (tmp_path / "cut.json").write_text(broken_json)
        with pytest.raises(ValueError, match=r"cut\.json"):
            load_prototypes(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError):
        load_prototypes(tmp_path / "none.safetensors")
