"""What ``vpl ablate`` measured so far, on disk after every setting."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.experiments.ablation.settings import Setting
from vpl_plugin.localization.bootstrap import Difference, paired_difference

__all__ = ["Measured"]


class Measured:
    """Figures and counts by setting; an earlier run's are gone on with.

    Args:
        folder: holds them.
        context: what all settings depend on: the model, the photos.

    Raises:
        InputError: the folder holds results of another context.
    """

    def __init__(self, folder: Path, context: dict[str, Any]) -> None:
        self._path = path = folder / "results.json"
        self._counts = folder / "counts"
        self._context = context
        self._rows: dict[str, dict[str, Any]] = {}
        self._differences: dict[tuple[Setting, Setting, str], Difference] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["context"] != context:
                raise InputError(
                    f"{path} holds results of another run ({stored['context']}, this one is"
                    f" {context}): choose another --output"
                )
            self._rows = stored["rows"]

    def row(self, setting: Setting) -> dict[str, Any] | None:
        """The figures of a setting, or None."""
        return self._rows.get(setting.key)

    def counts(self, setting: Setting, split: str, kind: str) -> Tensor:
        """(photos, 3, C) of :func:`~vpl_plugin.localization.iou_counts`.

        ``split`` is "train", "val" or "learned"; ``kind`` is "raw" or "refined".
        """
        with np.load(self._counts_file(setting), allow_pickle=False) as held:
            return torch.from_numpy(held[f"{split}_{kind}"])

    def difference(self, setting: Setting, base: Setting, split: str) -> Difference:
        """Of the refined seeds of two settings; computed once."""
        key = (setting, base, split)
        if key not in self._differences:
            self._differences[key] = paired_difference(
                *(self.counts(each, split, "refined") for each in (setting, base))
            )
        return self._differences[key]

    def _counts_file(self, setting: Setting) -> Path:
        return self._counts / f"{hashlib.sha256(setting.key.encode()).hexdigest()[:16]}.npz"

    def add(self, setting: Setting, row: dict[str, Any], counts: dict[str, Tensor]) -> None:
        """Keeps the figures of a setting, and the counts of its photos."""
        self._counts.mkdir(exist_ok=True)
        with whole_file(self._counts_file(setting)) as part:
            arrays: dict[str, Any] = {
                name: each.to(torch.int32).numpy() for name, each in counts.items()
            }
            np.savez_compressed(part, **arrays)
        self._rows[setting.key] = row
        with whole_file(self._path) as part:
            part.write_text(json.dumps({"context": self._context, "rows": self._rows}, indent=1))
