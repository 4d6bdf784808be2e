"""Files are whole or untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpl_plugin.atomic_files import whole_file


def test_a_failed_write_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("before")

    def fail() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_the_suffix_and_is_hidden(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.npz") as part:
        assert part.suffix == ".npz"
        assert part.name.startswith(".")
        part.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
