"""Read the documents: their code blocks, tables, headings and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import REPOSITORY

_FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.M | re.S
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``title`` is the file that it is the content of."""

    language: str
    title: str | None
    text: str
    line: int


class Document:
    """One Markdown file of the repository."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")

    def __str__(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    def blocks(self, language: str | None = None) -> list[Block]:
        """Return the fenced blocks, of one language or of all."""
        found = [
            Block(
                match["language"],
                match["title"],
                match["text"],
                self.text.count("\n", 0, match.start()) + 1,
            )
            for match in _FENCE.finditer(self.text)
        ]
        return [block for block in found if language in (None, block.language)]

    def block(self, language: str, containing: str = "") -> Block:
        """Return the one block of a language that contains a text."""
        (found,) = [each for each in self.blocks(language) if containing in each.text]
        return found

    def prose(self) -> str:
        """Return the text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def anchors(self) -> set[str]:
        """Return what a link to a heading of this document may end with."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose())}

    def links(self) -> list[str]:
        """Return the targets of all links."""
        return _LINK.findall(self.prose())

    def section(self, heading: str) -> str:
        """Return what stands under a heading, up to the next one of its level or above."""
        level = re.search(rf"^(#+) {re.escape(heading)}$", self.prose(), re.MULTILINE)
        assert level, f"{self} has no heading {heading!r}"
        rest = self.prose()[level.end() :]
        end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def table(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table under a heading, without its head."""
        lines = [line for line in self.section(heading).splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        width = len(rows[0])
        # A second table would have a head of its own, and none here has.
        assert all(len(row) == width for row in rows), f"{self}: {heading}: cells are missing"
        return rows[2:]


def document(path: str) -> Document:
    """Return a document by its path in the repository."""
    return Document(REPOSITORY / path)


def documents() -> list[Document]:
    """Return every document."""
    paths = [*REPOSITORY.glob("*.md"), *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [Document(path) for path in paths]


def code(cell: str) -> list[str]:
    """Return what stands in backticks in a cell."""
    return _CODE.findall(cell)


def patched(text: str, diff: str) -> str:
    """Return a text with a diff applied whose lines have no numbers."""
    # An editor may have taken the blank that stands for an empty line of context.
    lines = [line if line.strip("\n") else " \n" for line in diff.splitlines(keepends=True)]
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"this is not there, or not once:\n{before}"
    return text.replace(before, after)


def write_files(folder: Path, blocks: list[Block]) -> Iterator[Path]:
    """Write the blocks that have a title into a folder; a diff changes what is there."""
    for block in blocks:
        if block.title is None:
            continue
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        text = block.text
        if block.language == "diff":
            text = patched(path.read_text(encoding="utf-8"), text)
        path.write_text(text, encoding="utf-8")
        yield path


def _anchor(heading: str) -> str:
    """Return GitHub's anchor of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")
