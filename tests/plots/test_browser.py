"""The report to explore in a real browser: everything is clicked, and what it shows is looked at.

The photos are made up so that what must be seen is known: see :func:`made_up`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpl_plugin.plots.explorer import (
    ExplorerPhoto,
    PhotoMaps,
    listed_photo,
    photo_data,
    write_photo_script,
    write_report,
)

pytestmark = pytest.mark.browser

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
GRID = (4, 6)
COUNT = 30


def made_up(*, kinds: tuple[str, ...] = ("text", "vision"), masks: bool = True) -> ExplorerPhoto:
    """A grey photo of a cat and a dog.

    By text prototypes the cat's CAM is 1 on the upper half, the dog's on the lower one. By vision
    prototypes the cat's is 0.5 everywhere, the dog's 0. The probability of the cat rises by the
    column: 0.1, 0.2, ..., 0.6; the background has the rest. Text masks are cat everywhere, vision
    masks dog everywhere; the true mask is ignored on the left half, and background on the right.
    """
    height, width = GRID
    upper = (torch.arange(height) < height // 2).float()[:, None].expand(GRID)
    cat = ((torch.arange(width) + 1) / 10).expand(GRID)
    probabilities = torch.stack([cat, torch.zeros(GRID), torch.zeros(GRID), 1 - cat])
    size = (height * 16, width * 16)
    of_kinds = {
        "text": PhotoMaps(
            torch.stack([upper, 1 - upper]),
            probabilities,
            np.full(size, 1, np.uint8) if masks else None,
        ),
        "vision": PhotoMaps(
            torch.stack([torch.full(GRID, 0.5), torch.zeros(GRID)]),
            probabilities,
            np.full(size, 2, np.uint8) if masks else None,
        ),
    }
    truth = np.zeros(size, np.uint8)
    truth[:, : size[1] // 2] = 255
    photo = Image.new("RGB", size[::-1], (128, 128, 128))
    held = {kind: of_kinds[kind] for kind in kinds}
    return ExplorerPhoto(photo, [1, 2], held, truth if masks else None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    command = next(filter(None, map(shutil.which, COMMANDS)), None)
    with driver.sync_playwright() as playwright:
        if command is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium on this machine")
        started = playwright.chromium.launch(executable_path=command)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of 30 photos with scripts beside the page, of which one lacks its script; of one."""
    folder = tmp_path_factory.mktemp("reports <#1 é>")
    scripts = folder / "many"
    (scripts / "sub <b>").mkdir(parents=True)
    photos = []
    for number in range(COUNT):
        name = "sub <b>/100% #é.jpg" if number == 1 else f"photo{number}.jpg"
        labels = ["cat", "dog"] if number % 2 == 0 else ["cow", "dog"]
        if number != 2:
            write_photo_script(scripts / f"{name}.js", name, photo_data(made_up()), "")
        photos.append(listed_photo(name, labels, f"many/{name}.js", f"number {number}"))
    write_report(folder / "many.html", "Thirty photos", photos)
    for name, item in (("one", made_up()), ("text", made_up(kinds=("text",), masks=False))):
        data = photo_data(item)
        write_report(folder / f"{name}.html", name, [listed_photo(name, ["cat", "dog"], data)])
    return folder


@pytest.fixture
def opened(browser: Any, reports: Path) -> Iterator[Any]:
    """Opens a report from disk; at the end, nothing must have gone wrong, or gone to a network."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
        ),
    )

    def call(name: str) -> Any:
        page.goto((reports / f"{name}.html").as_uri())
        page.wait_for_selector("#values td")
        return page

    yield call
    context.close()
    assert wrong == []


def pixel(page: Any, x: float, y: float) -> list[int]:
    """RGBA of the maps at shares of their width and height."""
    return page.evaluate(
        """([x, y]) => {
          const canvas = document.getElementById("maps");
          const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
          return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
        }""",
        [x, y],
    )


def drag_slider(page: Any, name: str, value: int) -> None:
    page.locator(name).fill(str(value))


def values(page: Any) -> dict[str, list[str]]:
    rows = page.locator("#values tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def point_at(page: Any, row: int, column: int) -> None:
    box = page.locator("#stage").bounding_box()
    page.mouse.move(
        box["x"] + box["width"] * (column + 0.3) / GRID[1],
        box["y"] + box["height"] * (row + 0.3) / GRID[0],
    )


def names_shown(page: Any) -> list[str]:
    return page.locator("#thumbnails span").all_inner_texts()


def test_the_slider_uncovers_text_on_its_left_and_vision_on_its_right(opened: Any) -> None:
    page = opened("one")
    cat = pixel(page, 0.2, 0.1)
    assert cat[3] == 255
    assert pixel(page, 0.8, 0.1)[3] == 128
    drag_slider(page, "#divider", 100)
    assert pixel(page, 0.8, 0.1) == cat
    drag_slider(page, "#divider", 0)
    assert pixel(page, 0.2, 0.1)[3] == 128
    page.locator("#divider").press("ArrowRight")
    assert page.locator("#divider").input_value() == "1"
    assert page.locator("#divider").get_attribute("aria-valuetext") == "1 % text, 99 % vision"


def test_the_line_on_the_photo_can_be_dragged(opened: Any) -> None:
    page = opened("one")
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=4)
    page.mouse.up()
    assert page.locator("#divider").input_value() == "90"
    assert pixel(page, 0.8, 0.1)[3] == 255
    page.mouse.move(box["x"] + box["width"] * 0.2, middle)
    assert page.locator("#divider").input_value() == "90"


def test_the_name_of_a_side_goes_where_it_has_no_room(opened: Any) -> None:
    page = opened("one")
    assert page.locator("#left").inner_text() == "text CAM"
    assert page.locator("#right").inner_text() == "vision CAM"
    drag_slider(page, "#divider", 2)
    assert not page.locator("#left").is_visible()
    assert page.locator("#right").is_visible()


def test_opacity_fades_the_maps_and_brings_the_colours_back(opened: Any) -> None:
    page = opened("one")

    def look() -> list[str]:
        return page.evaluate(
            """() => [getComputedStyle(document.getElementById("maps")).opacity,
                      getComputedStyle(document.getElementById("photo")).filter]"""
        )

    drag_slider(page, "#opacity", 100)
    assert look() == ["1", "grayscale(1)"]
    drag_slider(page, "#opacity", 0)
    assert look() == ["0", "grayscale(0)"]
    assert page.locator("#opacity-value").inner_text() == "0 %"
    page.locator("#opacity").press("ArrowRight")
    assert look()[0] == "0.05"


def test_classes_are_switched_off_and_on_and_stay_so_on_the_next_photo(opened: Any) -> None:
    page = opened("many")
    cat, dog = pixel(page, 0.2, 0.1), pixel(page, 0.2, 0.9)
    assert cat[3] == dog[3] == 255
    assert cat != dog
    page.get_by_label("dog", exact=True).uncheck()
    assert pixel(page, 0.2, 0.9)[3] == 0
    assert pixel(page, 0.2, 0.1) == cat
    page.get_by_label("Next photo").click()
    page.wait_for_function("document.getElementById('name').textContent.includes('100%')")
    page.wait_for_selector("text=cow")
    assert not page.get_by_label("dog", exact=True).is_checked()
    assert pixel(page, 0.2, 0.9)[3] == 0
    page.get_by_label("dog", exact=True).press("Space")
    assert pixel(page, 0.2, 0.9)[3] == 255


def test_every_view_shows_its_own_maps(opened: Any) -> None:
    page = opened("one")
    drag_slider(page, "#divider", 50)
    page.get_by_label("probability").check()
    shares = [pixel(page, (column + 0.5) / 6, 0.5)[3] / 255 for column in range(6)]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], atol=0.02)
    page.get_by_label("mask", exact=True).check()
    text, vision = pixel(page, 0.2, 0.5), pixel(page, 0.8, 0.5)
    assert text[3] == vision[3] == 255
    assert text != vision
    page.get_by_label("true mask").check()
    assert pixel(page, 0.2, 0.5) == [187, 187, 187, 255]
    assert pixel(page, 0.8, 0.5)[3] == 0
    # It is one and the same on both sides.
    assert not page.locator("#divider").is_visible()
    assert not page.locator("#line").is_visible()
    page.get_by_label("true mask").press("ArrowRight")
    assert page.get_by_label("CAM", exact=True).is_checked()
    assert page.locator("#divider").is_visible()


def test_the_patch_under_the_pointer_is_read(opened: Any) -> None:
    page = opened("one")
    assert values(page)["cat"] == ["–"] * 4
    point_at(page, 0, 1)
    assert values(page) == {
        "cat": ["1.00", "20 %", "0.50", "20 %"],
        "dog": ["0.00", "0 %", "0.00", "0 %"],
        "other classes": ["–", "0 %", "–", "0 %"],
        "background": ["–", "80 %", "–", "80 %"],
    }
    assert page.locator("#place").inner_text() == "Patch in row 1 of 4, column 2 of 6"
    point_at(page, 3, 4)
    assert values(page)["cat"] == ["0.00", "50 %", "0.50", "50 %"]
    stage, probe = (page.locator(name).bounding_box() for name in ("#stage", "#probe"))
    assert probe["x"] - stage["x"] == pytest.approx(stage["width"] * 4 / 6, abs=1.5)
    assert probe["y"] - stage["y"] == pytest.approx(stage["height"] * 3 / 4, abs=1.5)


def test_arrow_keys_read_patches_and_say_them(opened: Any) -> None:
    page = opened("one")
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#place").inner_text() == "Patch in row 3 of 4, column 4 of 6"
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    # The edge stops them.
    assert page.locator("#place").inner_text() == "Patch in row 1 of 4, column 3 of 6"
    assert values(page)["cat"] == ["1.00", "30 %", "0.50", "30 %"]
    spoken = page.locator("#spoken").inner_text()
    assert "row 1 of 4, column 3 of 6. text prototypes: cat 30 %, dog 0 %" in spoken
    assert "vision prototypes: cat 30 %" in spoken
    point_at(page, 2, 2)
    assert page.locator("#spoken").inner_text() == spoken


def test_photos_come_page_by_page(opened: Any) -> None:
    page = opened("many")
    assert len(names_shown(page)) >= 12
    assert page.locator("#page").inner_text() == "Page 1 of 3"
    assert page.get_by_label("Previous page").is_disabled()
    page.get_by_label("Next page").click()
    assert names_shown(page) == [f"photo{number}.jpg" for number in range(12, 24)]
    page.wait_for_function("document.getElementById('name').textContent === 'photo12.jpg'")
    page.get_by_label("Next page").click()
    assert page.locator("#page").inner_text() == "Page 3 of 3"
    assert len(names_shown(page)) == 6
    assert page.get_by_label("Next page").is_disabled()
    page.get_by_label("Previous page").click()
    assert page.locator("#page").inner_text() == "Page 2 of 3"
    # What has been turned over is not kept.
    page.wait_for_function("loaded.size === 12")


def test_pictures_of_the_page_alone_are_loaded(opened: Any, reports: Path) -> None:
    page = opened("many")
    page.wait_for_function(
        """() => [...document.querySelectorAll("#thumbnails img")]
          .filter((image) => image.complete && image.naturalWidth > 0).length === 11"""
    )
    assert page.evaluate("loaded.size") == 12
    assert (reports / "many.html").stat().st_size < 40_000


def test_previous_and_next_photo(opened: Any) -> None:
    page = opened("many")
    assert page.get_by_label("Previous photo").is_disabled()
    page.get_by_label("Next photo").click()
    assert page.locator("#name").inner_text() == "sub <b>/100% #é.jpg"
    page.wait_for_function("document.getElementById('photo').alt.includes('100%')")
    assert page.locator("#photo").get_attribute("alt") == (
        "Photo sub <b>/100% #é.jpg, labelled cow, dog"
    )
    assert page.evaluate("document.getElementById('photo').naturalWidth") == 96
    assert page.locator("#caption").inner_text() == "number 1"
    page.get_by_label("Previous photo").click()
    assert page.locator("#name").inner_text() == "photo0.jpg"


def test_the_gallery_by_mouse_and_keys(opened: Any) -> None:
    page = opened("many")

    def current() -> str:
        return page.locator('#thumbnails [aria-current="true"]').get_attribute("title")

    page.get_by_role("button", name="photo3.jpg: cow, dog").click()
    assert page.locator("#name").inner_text() == current() == "photo3.jpg"
    for key, name in (
        ("ArrowRight", "photo4.jpg"),
        ("ArrowUp", "photo3.jpg"),
        ("PageDown", "photo15.jpg"),
        ("ArrowDown", "photo16.jpg"),
        ("PageUp", "photo4.jpg"),
        ("End", "photo29.jpg"),
        ("ArrowRight", "photo29.jpg"),
        ("Home", "photo0.jpg"),
        ("ArrowLeft", "photo0.jpg"),
    ):
        page.keyboard.press(key)
        assert current() == name, key
        assert page.evaluate("document.activeElement.title") == name
        assert page.locator('#thumbnails [tabindex="0"]').count() == 1


def test_photos_of_a_class(opened: Any) -> None:
    page = opened("many")
    choice = page.get_by_label("Photos of")
    assert choice.locator("option").all_inner_texts() == [
        "all classes (30)",
        "cat (15)",
        "cow (15)",
        "dog (30)",
    ]
    choice.select_option(label="cow (15)")
    assert page.locator("#page").inner_text() == "Page 1 of 2"
    assert names_shown(page)[:3] == ["100% #é.jpg", "photo3.jpg", "photo5.jpg"]
    choice.select_option(label="all classes (30)")
    assert page.locator("#page").inner_text() == "Page 1 of 3"


def test_a_missing_script_is_named_and_the_other_photos_are_there(opened: Any) -> None:
    page = opened("many")
    page.get_by_role("button", name="photo2.jpg").click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "many/photo2.jpg.js is missing or broken" in page.get_by_role("alert").inner_text()
    assert not page.locator("#stage").is_visible()
    page.locator("#opacity").press("ArrowLeft")
    page.get_by_label("Next photo").click()
    page.wait_for_selector("#stage:not([hidden])")
    assert not page.get_by_role("alert").is_visible()
    assert pixel(page, 0.2, 0.1)[3] == 255


def test_one_kind_of_prototypes_needs_no_slider(opened: Any) -> None:
    page = opened("text")
    assert not page.locator("#divider").is_visible()
    assert not page.locator("#line").is_visible()
    assert pixel(page, 0.9, 0.1)[3] == 255
    point_at(page, 0, 0)
    assert values(page)["cat"] == ["1.00", "10 %"]
    views = page.locator("#views label:visible").all_inner_texts()
    assert [view.strip() for view in views] == ["CAM", "probability"]
    assert not page.locator("#gallery").is_visible()


def test_the_keyboard_reaches_everything_and_everything_has_a_name(opened: Any) -> None:
    page = opened("many")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
              const at = document.activeElement;
              return at === document.body ? "" : at.id || at.className || at.closest("[id]").id;
            }"""
        )
        if not at:
            break
        reached.append(at)
    wanted = ["skip", "next-photo", "stage", "divider", "views", "opacity", "classes", "classes"]
    assert reached == [*wanted, "filter", "next-page", "thumbnails"]
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex='0']")]
          .filter((one) => one.checkVisibility())
          .filter((one) => !one.getAttribute("aria-label") && !(one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert (
        page.evaluate("[...document.images].filter((one) => !one.hasAttribute('alt')).length") == 0
    )
    assert page.evaluate("document.documentElement.lang") == "en"
    page.locator(".skip").press("Enter")
    assert page.evaluate("document.activeElement.id") == "stage"


@pytest.mark.parametrize("width", [320, 400, 1400])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    page = opened("many")
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    photo, line = (page.locator(name).bounding_box() for name in ("#stage", "#divider"))
    assert line["x"] == pytest.approx(photo["x"], abs=1)
    assert line["width"] == pytest.approx(photo["width"], abs=1)


def test_a_photo_chosen_far_below_comes_into_sight(opened: Any) -> None:
    page = opened("many")
    page.set_viewport_size({"width": 400, "height": 700})
    page.get_by_role("button", name="photo9.jpg").click()
    page.wait_for_function("document.getElementById('name').textContent === 'photo9.jpg'")
    assert 0 <= page.locator("#name").bounding_box()["y"] < 700


def test_a_finger_reads_a_patch(browser: Any, reports: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto((reports / "one.html").as_uri())
    page.wait_for_selector("#values td")
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.1)
    assert values(page)["cat"] == ["1.00", "60 %", "0.50", "60 %"]
    context.close()
