"""What mkdocs does beyond its configuration: pages from outside docs/, equations as MathML.

The site mirrors the checkout with docs/ as its root, so the links that GitHub follows hold.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from importlib.metadata import distribution
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("examples/*", "vpl_plugin/clip/weights/MODEL_CARD.md", "CHANGELOG.md", "LICENSE")
LINK = re.compile(r"(\]\()([^)\s#]+)")
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
RAW = re.compile(r":(class|data|func|math|meth|mod):|\.\. \w+::|arithmatex|\\(?:frac|mathrm|sum)\b")
FOREIGN = re.compile(r'<(?!a\b)[^>]+(?:src|href)="(?:https?:)?//[^"]*"')
FUNCTION = re.compile(r"(<mi>(?:cos|exp|log)</mi>)(?=<m(?:i|n|sub|sup|subsup|frac)>)")
LETTERS = re.compile(r'(?:<mi mathvariant="normal">\w</mi>){2,}')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to outside docs/; notebooks become pages."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        if not path.is_file():
            continue
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=path.read_bytes()))
        if path.suffix == ".ipynb":
            files.append(File.generated(config, site_path(name), content=notebook_page(path)))
    font = Path(distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf"))
    files.append(File.generated(config, "assets/math.ttf", content=font.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links between files of the checkout into links between pages."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]  # its one screen takes the whole width
    folder = posixpath.dirname(page.file.src_uri)
    outside = page.file.generated_by is not None
    here = folder if outside else posixpath.join("docs", folder)

    def relink(link: re.Match[str]) -> str:
        start, target = link.groups()
        if "://" in target:
            return link.group()
        path = posixpath.normpath(posixpath.join(here, target))
        return start + posixpath.relpath(site_path(path), folder or ".")

    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(relink, prose) for prose in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Renders the equations, which needs no script in the browser."""
    html = EQUATION.sub(lambda equation: mathml(equation, page.file.src_uri), html)
    if 'class="doc doc-object doc-module"' in html:
        raise PluginError(
            f"{page.file.src_uri}: a ::: line leads to a file and not to its function"
        )
    if left := RAW.search(html):
        raise PluginError(f"{page.file.src_uri} shows raw markup: {left.group()}")
    return html


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Holds the site to what it promises: it opens from a disk, without a network."""
    if asset := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads from a network: {asset.group()}")
    return output


def site_path(path: str) -> str:
    """Where a file of the checkout lies in the site."""
    path = path.removeprefix("docs/")
    return f"{path.removesuffix('.ipynb')}.md" if path.endswith(".ipynb") else path


def notebook_page(path: Path) -> str:
    """A notebook without outputs as a page, with a link to the file."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    parts.insert(1, f'<a href="{path.name}" download>Download the notebook</a>')
    return "\n\n".join(parts)


def mathml(equation: re.Match[str], page: str) -> str:
    """One equation as MathML."""
    latex = html.unescape(equation.group(2)).strip().replace(r"\Big\|", r"\Big‖")
    display = "block" if equation.group(1) == "div" else "inline"
    rendered = convert(latex, display=display)
    if "\\" in rendered:
        raise PluginError(f"{page}: latex2mathml does not know all of: {latex}")
    rendered = FUNCTION.sub(r'\1<mspace width="0.167em" />', rendered)
    # Letters of a name such as softmax are one identifier.
    return LETTERS.sub(lambda name: f"<mi>{re.sub('<[^>]+>', '', name.group())}</mi>", rendered)
