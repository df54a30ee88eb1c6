"""Files as parts: runs of text under their headings. Plain text, Markdown, HTML, PDF (the documents
extra), Word, tables and code; by suffix, with nothing but the standard library where that reads it.

    for part in parts_of(Path("guide.md")): part.heading, part.text, part.place"""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from daedal.errors import DaedalError

CODE = (".py", ".js", ".ts", ".c", ".h", ".cpp", ".go", ".rs", ".java", ".rb", ".sh", ".lua", ".sql", ".yaml", ".yml", ".toml", ".json")  # fmt: skip
HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*$")
TOP = re.compile(
    r"(?:async\s+)?(?:def|class|function|func|fn|pub|impl|struct|type|interface|export)\b"
)
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
LARGEST = 50_000_000  # bytes of a file


@dataclass(frozen=True)
class Part:
    """A text, the headings that it stands under, and where it is: "line 12", "page 3", "row 40"."""

    text: str
    heading: tuple[str, ...] = ()
    place: str = ""


def parts_of(path: Path) -> list[Part]:
    """The parts of a file. DaedalError for one that is encrypted, damaged, without text or of a kind
    that is not read."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DaedalError(
            f"{path.name} is of a kind that is not read; {', '.join(sorted(READERS))} are."
        )
    data = path.read_bytes()
    if len(data) > LARGEST:
        raise DaedalError(f"{path.name} has {len(data) >> 20} MB, more than is read; split it.")
    found = [part for part in read(path, data) if part.text.strip()]
    if not found:
        raise DaedalError(f"{path.name} holds no text; give one that does.")
    return found


def decoded(path: Path, data: bytes) -> str:
    """Text as UTF-8, or as Windows-1252 where it is not; an error for what is no text."""
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DaedalError(f"{path.name} is not text; give it under the suffix of what it is.")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


# ---- kinds ---------------------------------------------------------------------------------------


def plain(path: Path, data: bytes) -> Iterator[Part]:
    """Paragraphs."""
    line = 1
    for block in re.split(r"(\n\s*\n)", decoded(path, data)):
        if block.strip():
            yield Part(" ".join(block.split()), (), f"line {line}")
        line += block.count("\n")


def markdown(path: Path, data: bytes) -> Iterator[Part]:
    """Paragraphs and blocks of code under their headings."""
    headings: list[tuple[int, str]] = []
    held: list[str] = []
    start, fenced = 1, False

    def told() -> Iterator[Part]:
        if held:
            yield Part("\n".join(held), tuple(text for _, text in headings), f"line {start}")
            held.clear()

    for number, line in enumerate(decoded(path, data).splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        found = None if fenced else HEADING.match(line)
        if found or (not line.strip() and not fenced):
            yield from told()
        if found:
            level = len(found[1])
            headings[:] = [(n, text) for n, text in headings if n < level] + [(level, found[2])]
        elif line.strip() or fenced:
            start = start if held else number
            held.append(line.rstrip())
    yield from told()


class Page(HTMLParser):
    """The text of a page, block by block, without what is no content."""

    BLOCKS = frozenset(
        [
            "p",
            "div",
            "li",
            "td",
            "th",
            "tr",
            "pre",
            "blockquote",
            "section",
            "article",
            "br",
            "dt",
            "dd",
            "figcaption",
        ]
    )
    SILENT = frozenset(["script", "style", "nav", "noscript", "template", "svg", "head"])

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self.headings: list[tuple[int, str]] = []
        self.held: list[str] = []
        self.level = self.silent = 0
        self.line = 1

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.silent += tag in self.SILENT
        if tag in self.BLOCKS or re.fullmatch("h[1-6]", tag):
            self.flush()
            self.level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else self.level
            self.line = self.getpos()[0]

    def handle_endtag(self, tag: str) -> None:
        self.silent = max(self.silent - (tag in self.SILENT), 0)
        if tag in self.BLOCKS or re.fullmatch("h[1-6]", tag):
            self.flush()
            self.level = 0

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.held.append(data)

    def flush(self) -> None:
        text, self.held = " ".join("".join(self.held).split()), []
        if not text:
            return
        if self.level:
            self.headings = [(n, t) for n, t in self.headings if n < self.level] + [
                (self.level, text)
            ]
        else:
            self.parts.append(Part(text, tuple(t for _, t in self.headings), f"line {self.line}"))


def html(path: Path, data: bytes) -> list[Part]:
    page = Page()
    page.feed(decoded(path, data))
    page.close()
    page.flush()
    return page.parts


def pdf(path: Path, data: bytes) -> Iterator[Part]:
    """The text of each page."""
    try:
        import pypdf
    except ImportError:
        raise DaedalError(
            f'{path.name} is a PDF; `pip install "daedal[documents]"` reads those.'
        ) from None
    try:
        file = pypdf.PdfReader(io.BytesIO(data))
        if file.is_encrypted and not file.decrypt(""):
            raise DaedalError(f"{path.name} is encrypted; take its password off first.")
        pages = [page.extract_text() for page in file.pages]
    except (pypdf.errors.PyPdfError, ValueError, KeyError) as error:
        raise DaedalError(f"{path.name} is damaged or no PDF ({error}); export it again.") from None
    if not any(page.strip() for page in pages):
        raise DaedalError(
            f"{path.name} has {len(pages)} pages and no text, as scans have; run it through text recognition first."
        )
    for number, page in enumerate(pages, 1):
        for block in re.split(r"\n\s*\n", page):
            yield Part(" ".join(block.split()), (), f"page {number}")


def word(path: Path, data: bytes) -> Iterator[Part]:
    """The paragraphs of a .docx under its headings."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            tree = ElementTree.fromstring(file.read("word/document.xml"))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise DaedalError(f"{path.name} is no Word document ({error}); save it as .docx.") from None
    headings: list[tuple[int, str]] = []
    for number, paragraph in enumerate(tree.iter(f"{WORD}p"), 1):
        text = "".join(node.text or "" for node in paragraph.iter(f"{WORD}t")).strip()
        style = paragraph.find(f"{WORD}pPr/{WORD}pStyle")
        found = re.search(r"eading\s*(\d)", "" if style is None else style.get(f"{WORD}val", ""))
        if found and text:
            level = int(found[1])
            headings = [(n, t) for n, t in headings if n < level] + [(level, text)]
        elif text:
            yield Part(text, tuple(t for _, t in headings), f"paragraph {number}")


def table(path: Path, data: bytes) -> Iterator[Part]:
    """Each row as its columns' names and values."""
    text = decoded(path, data)
    try:
        dialect: type[csv.Dialect] | str = csv.Sniffer().sniff(text[:4096], ",;\t|")
    except csv.Error:
        dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
    rows = list(csv.reader(io.StringIO(text), dialect))
    for number, row in enumerate(rows[1:], 2):
        pairs = (f"{name}: {value}" for name, value in zip(rows[0], row, strict=False) if value)
        yield Part("; ".join(pairs), (), f"row {number}")


def code(path: Path, data: bytes) -> Iterator[Part]:
    """From one definition at the left margin to the next."""
    held: list[str] = []
    start = 1
    for number, line in enumerate(decoded(path, data).splitlines(), 1):
        if TOP.match(line) and any(each.strip() for each in held):
            yield Part("\n".join(held).strip("\n"), (), f"line {start}")
            held, start = [], number
        held.append(line)
    yield Part("\n".join(held).strip("\n"), (), f"line {start}")


Reader = Callable[[Path, bytes], Iterator[Part] | list[Part]]
READERS: dict[str, Reader] = {
    ".txt": plain, ".text": plain, ".rst": plain, ".log": plain, ".md": markdown, ".markdown": markdown, ".html": html,
    ".htm": html, ".pdf": pdf, ".docx": word, ".csv": table, ".tsv": table, **dict.fromkeys(CODE, code),
}  # fmt: skip
