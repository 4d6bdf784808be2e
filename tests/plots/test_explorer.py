"""The report to explore, as files: values, sizes, names, and what the page is given."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from vpl_plugin import InputError
from vpl_plugin.plots.explorer import (
    ExplorerPhoto,
    PhotoMaps,
    eight_bit,
    listed_photo,
    mask_shapes,
    photo_data,
    thumbnail,
    write_photo_script,
    write_report,
)
from vpl_plugin.results import made_from

UNIT = st.floats(0, 1, width=32)


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def photo_with_maps(size: tuple[int, int] = (60, 40), classes: int = 2) -> ExplorerPhoto:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    grid = (-(-size[1] // 16), -(-size[0] // 16))
    maps = PhotoMaps(
        torch.rand(classes, *grid),
        torch.rand(classes + 2, *grid).softmax(dim=0),
        np.zeros(size[::-1], np.uint8),
    )
    return ExplorerPhoto(
        Image.fromarray(noise).reduce(4).resize(size),
        range(1, classes + 1),
        {"text": maps, "vision": maps},
    )


def listed(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'id="photos">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3), elements=UNIT))
def test_maps_keep_their_values_to_half_a_step(maps: np.ndarray) -> None:
    held = np.frombuffer(base64.b64decode(eight_bit(torch.from_numpy(maps))), np.uint8)
    assert np.abs(held.reshape(maps.shape) / 255 - maps).max() <= 0.5 / 255 + 1e-6


def test_maps_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        eight_bit(torch.tensor([0.5, torch.nan]))


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(16, 600))
def test_thumbnails_keep_their_shape_and_no_side_is_longer(w: int, h: int, side: int) -> None:
    small = thumbnail(Image.new("L", (w, h)), side)
    assert max(small.size) <= max(side, 1)
    assert min(small.size) >= 1
    scale = min(1, side / max(w, h))
    assert abs(small.width - w * scale) <= 1
    assert abs(small.height - h * scale) <= 1


@given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=2),
        elements=st.sampled_from([0, 3, 7, 255]),
    )
)
def test_shapes_are_opaque_exactly_where_the_label_is(mask: np.ndarray) -> None:
    uris = mask_shapes(mask, [7, 3], mask.shape[::-1])
    for uri, label in zip(uris, (7, 3, 255), strict=True):
        alpha = np.asarray(picture(uri).convert("RGBA"))[..., 3]
        np.testing.assert_array_equal(alpha, np.where(mask == label, 255, 0))


def test_a_photo_of_a_camera_is_tens_of_kilobytes() -> None:
    data = photo_data(photo_with_maps((1600, 1200)))
    assert data["size"] == [480, 360]
    assert data["grid"] == [75, 100]
    assert picture(data["photo"]).size == (480, 360)
    assert len(json.dumps(data)) < 250_000


def test_maps_that_do_not_fit_the_photo_are_refused() -> None:
    item = photo_with_maps()
    with pytest.raises(InputError, match=r"for the 1 classes of the photo"):
        photo_data(item._replace(classes=[1]))
    other = photo_with_maps((90, 90)).kinds["text"]
    with pytest.raises(InputError, match="on one grid"):
        photo_data(item._replace(kinds={**item.kinds, "vision": other}))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_script_is_found_whatever_its_name(name: str) -> None:
    address = listed_photo("photo", ["cat"], name)["script"]
    assert unquote(address) == name
    assert not set(address) & set("#?\"'<> ")


NAMES = ["</script><b>.jpg", "a b#1%.jpg", "été\u2028.jpg", '"quoted".jpg']


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_the_page_or_a_script(name: str, tmp_path: Path) -> None:
    data = {"size": [1, 1], "photo": name}
    write_photo_script(tmp_path / "photo.js", name, data, "abc")
    script = (tmp_path / "photo.js").read_text("utf-8")
    arguments = json.loads(f"[{script.partition('receivePhoto(')[2].rstrip().removesuffix(');')}]")
    assert arguments == [name, data]
    assert "<" not in script
    page = tmp_path / "report.html"
    write_report(page, name, [listed_photo(name, [name], data)])
    assert listed(page) == [{"name": name, "labels": [name], "caption": "", "data": data}]
    assert f"<title>{escape(name)}</title>" in page.read_text("utf-8")


def test_a_script_says_what_it_was_made_from(tmp_path: Path) -> None:
    write_photo_script(tmp_path / "photo.js", "photo", {}, "0123abcd")
    assert made_from(tmp_path / "photo.js") == "0123abcd"
    (tmp_path / "other.js").write_bytes(b"\xff" * 1000)
    assert made_from(tmp_path / "other.js") is None
    assert made_from(tmp_path / "absent.js") is None


def test_the_page_needs_no_network_and_no_file(tmp_path: Path) -> None:
    photos = [listed_photo("cat", ["cat", "dog"], photo_data(photo_with_maps()))]
    write_report(tmp_path / "report.html", "Two pets", photos, about="<p>above</p>", below="under")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "http" not in page
    assert not re.search(r"<!-- \w+ -->", page)
    assert page.index("above") < page.index('id="stage"') < page.index("under")


def test_a_report_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "first", [])

    def broken() -> Iterator[dict[str, Any]]:
        yield listed_photo("cat", ["cat"], "cat.js")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "report.html", "second", broken())
    assert "first" in (tmp_path / "report.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
