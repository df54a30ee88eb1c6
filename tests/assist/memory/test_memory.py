"""What is remembered of a user: found in their own words, replaced, recalled and forgotten."""

import json

import pytest
from typer.testing import CliRunner

from daedal.assist.memory.facts import facts_in, forgotten_in
from daedal.assist.memory.store import Memory, switch, told
from daedal.cli import app
from daedal.errors import DaedalError


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "memory.db") as found:
        yield found


def pairs(turn: str) -> dict[str, str]:
    return {fact.key: fact.value for fact in facts_in(turn)}


@pytest.mark.parametrize(
    "turn, found",
    [
        ("Hi! My name is Pim, and I live in Oslo.", {"name": "Pim", "home": "Oslo"}),
        ("I'm called Zoe but I moved to Rome last year.", {"name": "Zoe", "home": "Rome"}),
        ("I work as a baker. I am allergic to nuts.", {"job": "baker", "allergy": "nuts"}),
        ("My favorite colour is green because of grass.", {"favourite colour": "green"}),
        ("I have a dog called Rex.", {"dog": "Rex"}),
        ("I'm Ada, by the way. I'm Tired.", {"name": "Tired"}),
        ("I was born on 2 June. I've been living in Bern for six years.", {"birthday": "2 June", "home": "Bern"}),
        ("We left for Porto, that is where we live now. I am a nurse.", {"home": "Porto", "job": "nurse"}),
        ("The tea I like best is oolong. I like it when it snows.", {"favourite tea": "oolong"}),

        ("My sister's name is Ada.", {"sister": "Ada"}),
        ("My birthday is on 3 May.", {"birthday": "3 May"}),
        ("I just turned 41.", {"age": "41"}),
        ("I really like chess and I hate opera.", {"taste: chess": "likes", "taste: opera": "dislikes"}),
        ("Please remember that the key is under the mat.", {"note: the key is under": "the key is under the mat"}),
        ("What is my name? Do I live in Oslo?", {}),
        ("He said \"my name is Tom\" and left.", {}),
        ("> I live in Paris\nIs that right?", {}),
        ("I am tired. Write a story. My turn is next.", {}),
        ("```\nmy age = 3\n```\nWhat does my code do?", {}),
    ],
)  # fmt: skip
def test_facts_are_what_a_user_says_of_themselves(turn, found):
    assert pairs(turn) == found


def test_of_what_is_said_twice_the_last_holds():
    assert pairs("I live in Rome. No, sorry, I live in Bern.") == {"home": "Bern"}


@pytest.mark.parametrize(
    "turn, words",
    [
        ("Please forget my address.", ["home"]),
        ("Can you forget that my name is Pim?", ["name", "pim"]),
        ("Forget everything about me.", []),
        ("Never forget that I like tea.", None),
        ("I forget my keys all the time.", None),
        ("How do I forget my past?", None),
    ],
)
def test_what_is_to_be_forgotten(turn, words):
    assert forgotten_in(turn) == words


def test_a_later_fact_takes_the_place_of_the_earlier(memory):
    memory.note("I live in Rome.", conversation="a")
    memory.note("I moved to Bern.", conversation="b")
    (fact,) = memory.facts()
    assert (fact.key, fact.value) == ("home", "Bern")
    old, new = memory.facts(replaced=True)
    assert old.value == "Rome" and old.replaced == new.at and new.replaced is None
    recalled = memory.recall("Where do I live?")
    assert "Bern" in recalled and "Rome" not in recalled


def test_what_is_forgotten_is_gone_from_the_file(memory):
    memory.note("My name is Pim. I live in Oslo, by the way.")
    memory.note("In Oslo it rains a lot.")
    memory.note("I have a cat called Mo.")
    assert not memory.note("Please forget my shoe size.").forgotten
    noted = memory.note("Please forget where I live.")
    assert [fact.value for fact in noted.forgotten] == ["Oslo"]
    assert [fact.value for fact in memory.facts(replaced=True)] == ["Pim", "Mo"]
    assert "Oslo" not in memory.export() and "Oslo" not in memory.recall("Oslo rain home")
    assert memory.turns("Oslo") == []
    assert b"oslo" not in memory.place.read_bytes().lower()  # nor in pages that are free
    memory.note("Forget everything about me.")
    assert json.loads(memory.export()) == {"facts": [], "turns": []}


def test_what_only_looks_like_it_is_kept(memory):
    memory.note("I am 7.")
    memory.note("We met at 17 Oak Road.")
    memory.note("My education was short.")
    memory.note("Forget how old I am.")
    assert all(fact.key != "age" for fact in memory.facts())
    assert len(memory.turns("Oak Road")) == 1 and len(memory.turns("education")) == 1
    memory.note("Forget my cat.")
    assert len(memory.turns("education")) == 1


def test_a_question_finds_the_turn_that_it_is_about(memory):
    memory.note("Yesterday we painted the shed in a dark shade of red.")
    for i in range(30):
        memory.note(f"My friend number {i} is Tom{i}.")
    recalled = memory.recall("Which shade was the shed?")
    assert "dark shade of red" in recalled and recalled.count("\n- ") <= 15
    assert "Tom7" in memory.recall("Who is my friend number 7?")


def test_owners_are_apart(memory):
    memory.note("My name is Pim.", owner="one")
    assert memory.facts("two") == [] and memory.recall("name", "two") == ""
    with pytest.raises(DaedalError, match="nothing of number 1"):
        memory.get(1, "two")


def test_facts_are_entered_edited_and_forgotten_by_hand(memory):
    fact = memory.enter("Home", "Oslo")
    changed = memory.edit(fact.id, "Bergen")
    assert [f.value for f in memory.facts(replaced=True)] == ["Bergen"] and changed.key == "home"
    memory.forget(changed.id)
    assert memory.facts(replaced=True) == []
    with pytest.raises(DaedalError, match="give both"):
        memory.enter("home", " ")


def test_it_stands_in_the_system_words():
    talk = [{"role": "user", "content": "Hi"}]
    assert told(talk, "") == talk
    assert told(talk, "Known: x")[0] == {"role": "system", "content": "Known: x"}
    both = told([{"role": "system", "content": "Be kind."}, *talk], "Known: x")
    assert both[0]["content"] == "Be kind.\n\nKnown: x" and len(both) == 2


def test_it_is_there_after_a_crash(tmp_path):
    one = Memory(tmp_path / "m.db")
    one.note("My name is Pim.")
    one.database.execute("BEGIN")
    one.database.execute("DELETE FROM facts")
    one.database.close()  # without a commit
    with Memory(tmp_path / "m.db") as again:
        assert again.facts()[0].value == "Pim"
    assert (tmp_path / "m.db").stat().st_mode & 0o777 == 0o600


def test_the_command_line_shows_and_changes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def said(*words: str) -> str:
        found = CliRunner().invoke(app, ["memory", *words])
        assert found.exit_code == 0, found.output
        return found.stdout

    assert said("add", "home", "Oslo") == "" and "home = Oslo  (entered by hand)" in said()
    said("edit", "1", "Bergen")
    with Memory() as memory:
        memory.note("My dog is called Rex.")
    assert "Rex" in said("search", "dog") and "dog = Rex  (My dog is called Rex.)" in said("list")
    assert json.loads(said("export"))["turns"][0]["text"] == "My dog is called Rex."
    assert said("forget", "--all") == "2 facts forgotten\n" and said("list") == ""
    assert not switch().exists()
    said("on")
    assert switch().exists()
    said("off")
    assert not switch().exists()
