"""A hook of MkDocs: files from the root of the repository become pages of the site.

Pages in docs/ link to them as they lie, as `../CONTRIBUTING.md`, and they link to `docs/style.md`, so that the links
also work where the repository is browsed. On the site both lie in one folder.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security-policy.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the root's files under the names of their pages."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links between docs/ and the root to links between pages."""
    from_root = page.file.src_uri in PAGES.values()
    for name, target in PAGES.items():
        markdown = markdown.replace(f"]({name}" if from_root else f"](../{name}", f"]({target}")
    return markdown.replace("](docs/", "](") if from_root else markdown
