"""Documents read, found again and answered from."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from daedal.assist.documents import answer as answers
from daedal.assist.documents.index import Hit, Index, falling, signs
from daedal.assist.documents.parts import parts_of
from daedal.assist.documents.passages import LONG, Passage, passages_of, sentences
from daedal.errors import DaedalError

GUIDE = """# Orchard

Notes on the trees.

## Harvest

Pears are picked in September, before the first frost.
They keep for six weeks in a cool cellar.

```
pick --gently
```

## Tools

A ladder of 3 metres, and a basket.
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "guide.md").write_text(GUIDE)
    (tmp_path / "prices.csv").write_text("fruit;price\npear;2.40\nquince;3.10\n")
    (tmp_path / "page.html").write_text(
        "<head><title>x</title></head><h1>Bees</h1><script>var bees=1</script><p>The hives stand <b>behind</b> the barn.</p>"
    )
    (tmp_path / "tree.py").write_text(
        'import os\n\n\ndef prune(tree):\n    """Cut it back."""\n    return tree\n\n\ndef graft(a, b):\n    return a + b\n'
    )
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / ".hidden.md").write_text("secret")
    return tmp_path


class Letters:
    """An embedder that counts letters: alike words are near."""

    name = "letters"

    def __init__(self, folder: Path, mark: str = "a") -> None:
        self.folder = folder.parent / f"embedder-{mark}"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(mark)
        self.calls = 0

    def embed(self, texts):
        self.calls += len(texts)
        counts = np.array(
            [[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts],
            np.float32,
        )
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)

    def word_vectors(self, words):
        self.calls -= len(words)
        return self.embed(words)


def test_parts_stand_under_their_headings(folder):
    parts = parts_of(folder / "guide.md")
    assert [(p.heading, p.place) for p in parts] == [
        (("Orchard",), "line 3"), (("Orchard", "Harvest"), "line 7"), (("Orchard", "Harvest"), "line 10"), (("Orchard", "Tools"), "line 16"),
    ]  # fmt: skip
    assert parts_of(folder / "prices.csv")[1].text == "fruit: quince; price: 3.10"
    (page,) = parts_of(folder / "page.html")
    assert page.text == "The hives stand behind the barn." and page.heading == ("Bees",)
    assert [p.place for p in parts_of(folder / "tree.py")] == ["line 1", "line 4", "line 9"]


def test_word_and_pdf(tmp_path):
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Rules</w:t></w:r></w:p><w:p><w:r><w:t>No </w:t></w:r><w:r><w:t>dogs.</w:t></w:r></w:p>'
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as file:
        file.writestr("word/document.xml", f"<w:document {w}><w:body>{body}</w:body></w:document>")
    (part,) = parts_of(tmp_path / "a.docx")
    assert (part.text, part.heading) == ("No dogs.", ("Rules",))
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "scan.pdf")
    writer.encrypt("secret")
    writer.write(tmp_path / "locked.pdf")
    for name, said in [
        ("scan.pdf", "1 pages and no text, as scans"),
        ("locked.pdf", "is encrypted"),
    ]:
        with pytest.raises(DaedalError, match=said):
            parts_of(tmp_path / name)
    for name in ("bad.pdf", "bad.docx"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DaedalError, match=r"is damaged or no PDF|is no Word document"):
            parts_of(tmp_path / name)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 au lait")
    assert parts_of(tmp_path / "b.txt")[0].text == "café au lait"
    (tmp_path / "c.txt").write_bytes(b"\0\1\2")
    with pytest.raises(DaedalError, match="is not text"):
        parts_of(tmp_path / "c.txt")


def test_passages_lose_nothing_and_are_not_long():
    text = " ".join(f"Sentence number {i} says a little." for i in range(200)) + " " + "x" * 3000
    from daedal.assist.documents.parts import Part

    made = passages_of([Part(text, ("A",)), Part("Short.", ("A",)), Part("Other.", ("B",))])
    assert max(len(p.text) for p in made) <= LONG + 8
    assert "".join("".join(p.text for p in made).split()) == "".join(
        (text + "Short.Other.").split()
    )
    assert made[-1].heading == "B" and all(p.heading == "A" for p in made[:-1])
    assert sentences('He left. "Why?" she asked. It was 3.5 km away.') == [
        "He left.",
        '"Why?" she asked.',
        "It was 3.5 km away.",
    ]


def test_what_was_written_is_found_and_only_changes_are_read(folder):
    embedder = Letters(folder)
    with Index.open(folder) as index:
        done = index.update(embedder)
        assert done.files == 4 and len(index) == done.passages == embedder.calls
        hit = index.search("When are the pears picked?", embedder)[0]
        assert (hit.file, hit.passage.heading, hit.by_words) == ("guide.md", "Orchard > Harvest", 1)
        assert index.search("quinces")[0].file == "prices.csv"  # by its stem
        calls = embedder.calls
        assert index.update(embedder).files == 0 and embedder.calls == calls
        (folder / "guide.md").write_text(GUIDE.replace("September", "October"))
        (folder / "page.html").unlink()
        done = index.update(embedder)
        assert (done.files, done.removed) == (1, 1) and embedder.calls < calls * 2
        assert "October" in index.search("pears picked", embedder)[0].passage.text
        assert all(
            "hives" not in h.passage.text
            for h in index.search("hives behind the barn", embedder, 20)
        )
        near = index.by_meaning(embedder.embed(["a ladder of 3 metres, and a basket"])[0])
        assert index.passage(near[0][0])[0].text.startswith("A ladder")


def test_a_file_that_cannot_be_read_is_named_and_what_was_known_stays(folder, monkeypatch):
    with Index.open(folder) as index:
        index.update()
        read = Path.read_bytes

        def locked(path):
            if path.name == "guide.md":
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", locked)
        (folder / "prices.csv").write_text("fruit;price\nmedlar;1.90\n")
        done = index.update()
        assert done.files == 1 and "guide.md cannot be read (Permission denied)" in done.errors[0]
        assert index.search("pears picked")[0].file == "guide.md"
        assert index.search("medlar")[0].file == "prices.csv"


def test_another_embedder_is_refused(folder):
    with Index.open(folder) as index:
        index.update(Letters(folder))
        for work in (lambda e: index.update(e), lambda e: index.search("pears", e)):
            with pytest.raises(DaedalError, match="another space"):
                work(Letters(folder, "b"))
        assert index.model == "letters"
    with pytest.raises(DaedalError, match="has no index; make one with"):
        Index.open(folder.parent / "embedder-a", make=False)
    with pytest.raises(DaedalError, match="is no folder"):
        Index.open(folder / "nothing")


def test_a_crash_leaves_a_whole_index(folder):
    class Breaks(Letters):
        def embed(self, texts):
            raise KeyboardInterrupt

    with Index.open(folder) as index:
        with pytest.raises(KeyboardInterrupt):
            index.update(Breaks(folder))
        assert index.search("pears picked")[0].file == "guide.md"
        index.update(Letters(folder))
        assert index.search("pears picked", Letters(folder))[0].by_meaning is not None


HITS = [
    Hit(
        Passage("Pears are picked in September. They keep for six weeks.", "Harvest", "line 7"),
        "guide.md",
        1.0,
    ),
    Hit(Passage("A ladder of 3 metres, and a basket.", "Tools", "line 16"), "guide.md", 0.5),
]


@pytest.mark.parametrize(
    "said, kept",
    [
        ("Pears are picked in September. [1]", "Pears are picked in September. [1]"),
        ("The pears are picked in September [1]. They keep six weeks.", "The pears are picked in September. [1] They keep six weeks. [1]"),
        ("Pears are picked in September. [2]", "Pears are picked in September. [1]"),  # the wrong source
        ("Pears are picked in October. [1]", "This is not in your documents."),
        ("The ladder has 4 metres. [2]", "This is not in your documents."),
        ("Pears are picked in September. [1] Apples were eaten by wasps. [1]", "Pears are picked in September. [1]"),
        ("This is not in your documents.", "This is not in your documents."),
    ],
)  # fmt: skip
def test_only_what_a_source_says_is_said(said, kept):
    class Model:
        def start(self, messages, **settings):
            assert messages[1]["content"].endswith("Question: When are pears picked?")
            return self

        def result(self):
            return type("Text", (), {"text": said})

    found = answers.answered("When are pears picked?", HITS, Model())
    assert found.text == kept and found.found == (kept != "This is not in your documents.")
    assert len(found.as_dict()["sources"]) == 2


def test_what_is_found_badly_is_not_asked_about(folder):
    with Index.open(folder) as index:
        index.update()
        hits = index.search("Who won the match against Lisbon?")
        assert not answers.answered("Who won the match against Lisbon?", hits, None).found
    assert not answers.answered("Who won the match?", [], None).found


def test_numbers_and_names_stand_whole_and_in_any_script():
    text = "Die Leiter hat 13 Meter und kostet 3.50. Зимой собирают груши."
    assert not answers.stands_in("3", text) and not answers.stands_in("3.5", text)
    assert answers.stands_in("13", text) and answers.stands_in("3.50", text)
    hit = Hit(Passage(text, "", "line 1"), "a.txt", 1.0)
    assert answers.supports("Зимой собирают груши.", hit.passage.text) > 0.5


def test_rows_of_passages_that_are_gone_are_passed_over(folder):
    embedder = Letters(folder)
    with Index.open(folder) as index:
        index.update(embedder)
        for number in range(4):
            (folder / "guide.md").write_text(GUIDE.replace("September", f"month {number}"))
            index.update(embedder)
        with index.vectors_file.open("ab") as file:
            file.write(b"\0\0\0")  # as a crash leaves it
        assert len(index.by_meaning(embedder.embed(["pears"])[0], 50)) == len(index)


def test_citations_stand_where_the_text_has_their_marks():
    said = "Pears are picked in September. [1] A ladder of 3 metres. [2]"
    found = answers.checked("What?", said, HITS)
    marks = [each["url_citation"] for each in found.annotations]
    assert [found.text[m["start_index"] : m["end_index"]] for m in marks] == ["[1]", "[2]"]
    assert marks[1] | {"start_index": 0, "end_index": 0} == {
        "start_index": 0, "end_index": 0, "url": "guide.md#line%2016", "title": "guide.md, Tools",
    }  # fmt: skip
    assert answers.checked("What?", f"This is {answers.NONE}.", HITS).annotations == []


def test_scores_are_found_in_falling_order_a_part_at_a_time():
    drawn = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    parts = list(falling(drawn))
    assert len(parts) > 1 and np.array_equal(np.concatenate(parts), np.argsort(-drawn))


def test_signs_choose_what_is_near_in_a_large_index(folder, monkeypatch):
    embedder = Letters(folder)
    embedder.embed = lambda texts: np.stack([drawn(text) for text in texts])
    with Index.open(folder) as index:
        index.update(embedder)
        text = index.passage(1)[0].indexed
        exact = index.by_meaning(drawn(text))
        monkeypatch.setattr("daedal.assist.documents.index.EXACT", 3)
        monkeypatch.setattr("daedal.assist.documents.index.RESCORED", 3)
        assert index.by_meaning(drawn(text))[0][0] == exact[0][0] == 1
        assert len(index.by_meaning(drawn(text))) == 3
        (folder / "tree.py").write_text("def water(tree):\n    return tree\n")  # the last rows
        index.update(embedder)
        new = index.passage(
            int(index.database.execute("SELECT max(id) FROM passages").fetchone()[0])
        )
        assert index.passage(index.by_meaning(drawn(new[0].indexed))[0][0]) == new
    assert signs(np.array([[1.0, -1.0] + [0.5] * 70])).shape == (1, 2)


def test_the_commonest_words_are_left_out_of_a_large_index(tmp_path, monkeypatch):
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"The orchard has a tree{i} and a gate{i % 3}.")
    with Index.open(tmp_path) as index:
        index.update()
        words = ["orchard", "gate1", "tree7"]
        assert index._rarest(words) == words
        monkeypatch.setattr("daedal.assist.documents.index.SCORED", 6)
        assert index._rarest(words) == ["tree7", "gate1"]
        assert index._rarest(["orchard", "tree"]) == ["tree"] and index.by_words("orchard gate1")
        assert index._rarest(["orchard"]) == ["orchard"]


def drawn(text):
    """A vector of a text by chance, the same each time."""
    vector = np.random.default_rng(list(text.encode())).normal(size=100).astype(np.float32)
    return vector / np.linalg.norm(vector)
