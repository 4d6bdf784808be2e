"""The documentation holds: its code runs, its links lead somewhere, it names what exists."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

import vpl_plugin
from vpl_plugin.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "examples" / "README.md"]
PYTHON = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
ANY_CODE = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)
# The packages whose __init__.py says what is public; adapters is installed as vpl_plugin.adapters.
PUBLIC = [
    parent + ".".join(path.parent.relative_to(ROOT).parts)
    for parent, folder in (("", "vpl_plugin"), ("vpl_plugin.", "adapters"))
    for path in sorted(ROOT.glob(f"{folder}/**/__init__.py"))
    if "__all__" in path.read_text(encoding="utf-8")
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def code_blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with the number of lines above it."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(1)), match.group(1)) for match in PYTHON.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return ANY_CODE.sub("", page.read_text(encoding="utf-8"))


def run(path: Path, blocks: list[tuple[int, str]]) -> None:
    """Runs the blocks in one namespace; tracebacks name the page and its line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for lines_above, block in blocks:
        code = compile("\n" * lines_above + block, str(path), "exec")
        exec(code, namespace)


def slug(heading: str) -> str:
    """The anchor GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if code_blocks(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, code_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file():
            dead.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
            if anchor not in map(slug, headings):
                dead.append(link)
    assert not dead


def test_every_public_name_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in vpl_plugin.__all__ if not re.search(rf"\b{name}\b", text)]
    assert [name for name in missing if name != "__version__"] == []


def rendered(directive: str) -> object:
    """The object of a line ``::: module.name`` of the reference."""
    module, _, name = directive.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("package", PUBLIC)
def test_the_reference_shows_every_public_name(package: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/reference/*.md"))
    shown = {id(rendered(name)) for name in re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)}
    public = importlib.import_module(package)
    names = [name for name in public.__all__ if name != "__version__"]
    assert [name for name in names if id(getattr(public, name)) not in shown] == []


def test_the_page_of_the_paper_names_functions_and_files_that_exist() -> None:
    table = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| (.+) \| `(vpl_plugin/[^`]+)`.* \|$", table, re.MULTILINE)
    assert len(rows) > 10
    for functions, file in rows:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`(?:localization\.)?(\w+)`", functions):
            assert getattr(module, name).__module__ == module.__name__, name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_command_is_documented(command: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"vpl_plugin.cli.{command}").add_arguments(parser)
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"vpl {command}\n"))
    options = re.findall(r"(--[\w-]+)", parser.format_help())
    assert options
    assert [option for option in dict.fromkeys(options) if option not in text] == []


def test_doctests_put_their_models_where_their_tensors_are() -> None:
    # Without a device a model goes to CUDA where there is one, and the tensors beside it do not.
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("vpl_plugin", "adapters")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(>>>|\.\.\.) .*load_clip\(", line) and "device=" not in line
    ]
    assert lines == []
