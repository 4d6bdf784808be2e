"""vpl compare on counts of small runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vpl_plugin.cli.main import main
from vpl_plugin.localization.photo_counts import write_photo_counts

NAMES = ["a", "b", "c"]


def counts(right: int) -> torch.Tensor:
    return torch.tensor([[right, right], [10, 10], [10, 10]]).expand(3, -1, -1)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, right, order in (("text", 5, NAMES), ("vision", 8, NAMES[::-1]), ("seed1", 9, NAMES)):
        Path(name).mkdir()
        kinds = {"refined": counts(right), "labels": counts(right + 1)}
        write_photo_counts(f"{name}/photo_counts.npz", order, kinds)
    return tmp_path


def test_differences_are_to_the_first_and_seeds_are_averaged(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["compare", "text:refined", "vision:labels", "vision:refined,seed1:refined"])
    assert code == 0
    first, second, third = capsys.readouterr().out.splitlines()[4:]
    assert first == "| text:refined | 33.3 |  |"
    # 9 of 11 against 5 of 15, on every photo alike.
    assert second == "| vision:labels | 81.8 | +48.5 [48.5, 48.5] |"
    assert third == "| vision:refined,seed1:refined | 74.2 | +40.9 [40.9, 40.9] |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text"], "runs must name FOLDER:KIND of evaluated folders"),
        (["absent:refined"], "which hold photo_counts.npz; got 'absent:refined'"),
        (["text:refined", "--level", "95"], r"--level must lie in \[0, 1\]; got 95"),
        (["text:free"], "has no 'free'; it has labels, refined"),
        (["text:refined", "other:refined"], "the same photos.*differ in 2, such as"),
    ],
)
def test_bad_input_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("other").mkdir()
    write_photo_counts("other/photo_counts.npz", ["a", "b", "x"], {"refined": counts(5)})
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
