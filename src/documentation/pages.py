"""Pages of the site that are files elsewhere: README.md, DESIGN.md, the notebooks."""

import re
from pathlib import Path

from src.documentation.keys import every_key
from src.files import write_text

ROOT = Path(__file__).resolve().parents[2]

# Page of the site -> the file of the repository that it shows.
SHOWN = {"overview": "README.md", "overview_zh": "README.zh-CN.md", "design": "DESIGN.md"}
TUTORIAL = "tutorial"
SECTION = re.compile(r"<!-- (README\.md|DESIGN\.md): (.+?) -->\n")
KEYS = "<!-- every key of conf/ -->"


def page(name: str, text: str) -> str:
    """The Markdown of a page as Sphinx reads it; `text` is that of the file in docs/."""
    if name in SHOWN:
        text = (ROOT / SHOWN[name]).read_text(encoding="utf-8")
    text = SECTION.sub(lambda found: _section(found[1], found[2]), text)
    if KEYS in text:
        text = text.replace(KEYS, "\n".join(every_key()))
    return _links_inside_the_site(text)


def copy_notebooks(docs: Path) -> None:
    """The notebooks into docs/tutorial, which git ignores; an unchanged one keeps its time."""
    source, target = ROOT / "notebooks", docs / TUTORIAL
    found = {path.relative_to(source): path for path in sorted(source.glob("**/[0-9]*.ipynb"))}
    for old in target.glob("**/*.ipynb"):
        if old.relative_to(target) not in found:
            old.unlink()
    for name, path in found.items():
        text = path.read_text(encoding="utf-8")
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            write_text(copy, text)


def _links_inside_the_site(text: str) -> str:
    for name, file in SHOWN.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(file)}(?=[)#])", f"]({name}.md", text)
    text = re.sub(r"\]\(docs/(?=[^)]+\))", "](", text)
    return re.sub(r"\]\((?:\.\./)?notebooks/([^)]+\.ipynb)", rf"]({TUTORIAL}/\1", text)


def _section(file: str, title: str) -> str:
    """What stands below a heading of a file, until the next one."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
