"""CAM files of upstream CLIP-ES: read without trust, written for its scripts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpl_plugin.adapters.clip_es.upstream.cam_files import read_upstream_cams, write_upstream_cams

KEYS = np.array([3, 14])
CAMS = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)


def test_what_upstream_saves_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"keys": KEYS, "attn_highres": CAMS})
    keys, cams = read_upstream_cams(tmp_path / "a.npy")
    assert np.array_equal(keys, KEYS)
    assert np.array_equal(cams, CAMS)
    assert (keys.dtype, cams.dtype) == (np.int64, np.float16)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_files_of_older_and_newer_numpy_are_read(tmp_path: Path, module: str) -> None:
    array = np.array({"keys": KEYS, "attn_highres": CAMS}, dtype=object)
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        # NumPy's own protocol: names end at line breaks there, so that they can be replaced.
        pickled = pickle.dumps(array, protocol=3)
        for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            pickled = pickled.replace(b"c" + name + b"\n", b"c" + module.encode() + b"\n")
        assert module.encode() in pickled
        file.write(pickled)
    assert np.array_equal(read_upstream_cams(tmp_path / "a.npy")[1], CAMS)


def test_what_is_written_is_what_upstreams_scripts_load(tmp_path: Path) -> None:
    write_upstream_cams(tmp_path / "a.npy", KEYS.tolist(), CAMS.astype(np.float64))
    held = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    assert np.array_equal(held["keys"], KEYS)
    assert np.array_equal(held["attn_highres"], CAMS)
    assert held["attn_highres"].dtype == np.float16
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    np.save(tmp_path / "a.npy", {"keys": KEYS, "attn_highres": Hostile(marker)})
    with pytest.raises(ValueError, match=r"a\.npy is not a CAM file of CLIP-ES: .*mkdir"):
        read_upstream_cams(tmp_path / "a.npy")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"keys": KEYS}, r"must hold a dict with 'keys' and 'attn_highres'; it holds \['keys'\]"),
        (["keys"], "is not a CAM file|must hold a dict"),
        ({"keys": [3, 14], "attn_highres": CAMS}, "keys must be integers of shape .* got a list"),
        ({"keys": KEYS, "attn_highres": CAMS[0]}, r"cams must be floats .* of shape \(5, 7\)"),
        ({"keys": KEYS[:1], "attn_highres": CAMS}, "must be as many; got 1 and 2"),
    ],
)
def test_other_contents_are_told(tmp_path: Path, held: Any, message: str) -> None:
    array = np.empty((), dtype=object)
    array[()] = held
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        read_upstream_cams(tmp_path / "a.npy")


def test_broken_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_upstream_cams(path, KEYS, CAMS)
    whole = path.read_bytes()
    for broken in (b"", whole[:4], whole[: len(whole) // 2], b"not an array at all"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.npy is not a CAM file"):
            read_upstream_cams(path)
    np.save(path, CAMS)
    with pytest.raises(ValueError, match="it holds an array float16"):
        read_upstream_cams(path)
    with pytest.raises(FileNotFoundError):
        read_upstream_cams(tmp_path / "none.npy")


def test_nothing_is_written_of_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be as many; got 1 and 2"):
        write_upstream_cams(tmp_path / "a.npy", [3], CAMS)
    assert not list(tmp_path.iterdir())
