"""Stories behind the request that would have ordered them."""

import json
import random
from pathlib import Path

from daedal.data.backtold import backtold
from daedal.data.rows import ChatSource, rows
from daedal.worlds.lexicon import is_held_out

STORY = (
    "Once there was a little cat named Tim. One day, Tim found a ball in the garden. "
    'Mom said, "Look at Tim play!" Then Tim was happy.'
)


def test_the_hero_is_renamed_in_both() -> None:
    for i in range(50):
        pair = backtold(STORY, random.Random(i))
        assert pair
        request, story = pair
        named = story.split("named ")[1].split(".")[0]
        assert "Tim" not in story and story.count(named) >= 4 and named in request
        assert "cat" in request and not is_held_out(named)


def test_a_story_without_a_hero_is_left_out(tmp_path: Path) -> None:
    assert backtold("It rained. The sun came out. It was warm.", random.Random(0)) is None
    file = tmp_path / "stories.jsonl"
    texts = (STORY, "It rained all day.", f"{STORY} {'And so on. ' * 50}")
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = list(rows(ChatSource(path=str(file), backtold=60)))
    assert len(found) == 1 and found[0]["prompt"] and "ball in the garden" in found[0]["completion"]
    assert found == list(rows(ChatSource(path=str(file), backtold=60)))
