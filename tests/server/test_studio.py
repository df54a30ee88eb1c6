"""The studio in a real browser: Debian's Chromium without a window, on a server with the house
models. Skipped where there is none."""

import json
import os
import re
import shutil
import time

import numpy as np
import pytest

from daedal.checkpoints import catalogue
from daedal.media import images

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is here")

PAGES = (
    "create", "chat", "code", "models", "train", "label", "history", "memory", "check", "measure",
)  # fmt: skip
SANDBOX = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=SANDBOX)
        yield started
        started.close()


@pytest.fixture
def visit(browser, served, monkeypatch, tmp_path_factory):
    """Open a page of the studio with a profile of its own; what goes wrong in the browser fails the
    test."""
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path_factory.getbasetemp() / "history.db"))
    wrong, contexts = [], []

    def open_at(name, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(f"{served.url}/#/{name}")
        page.wait_for_selector(f"page-{name.split('/')[0]}")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert not wrong


def until(page, holds, *given, seconds=20.0):
    """Wait for something in the page. Playwright's own way evaluates a string within the page, which
    the studio's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(holds, *given):
        assert time.monotonic() < end, holds
        time.sleep(0.02)


GALLERY = """async () => {
    const request = indexedDB.open("daedal", 1);
    const db = await new Promise((done) => { request.onsuccess = () => done(request.result); });
    const all = db.transaction("gallery").objectStore("gallery").getAll();
    const items = await new Promise((done) => { all.onsuccess = () => done(all.result); });
    return Promise.all(items.map(async ({blob, recipe}) => ({
        seed: recipe.settings.seed, data: Array.from(new Uint8Array(await blob.arrayBuffer()))})));
}"""


def paint(page, prompt):
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Paint", exact=True).click()
    page.get_by_role("button", name=f"Open: {prompt}").first.wait_for()


def test_a_picture_is_painted_kept_and_painted_again(visit):
    page = visit("create")
    page.get_by_label("Compare with").wait_for()
    paint(page, "a red square")
    page.get_by_role("button", name="Again", exact=True).click()
    until(page, "document.querySelectorAll('.work:not(.live)').length === 2")
    page.reload()
    page.get_by_role("button", name="Open: a red square").nth(1).wait_for()
    first, second = page.evaluate(GALLERY)
    assert first == second  # the same seed, the same bytes


def test_speech_is_said_played_and_said_again(visit):
    page = visit("create")
    page.get_by_label("Compare with").wait_for()
    page.get_by_role("radio", name="Speech").check()
    page.get_by_label("Prompt").fill("Good morning.")
    page.get_by_role("button", name="Say", exact=True).click()
    page.get_by_role("button", name="Open: Good morning.").first.wait_for()
    until(page, "document.querySelector('.work audio').duration > 0.4")
    page.get_by_role("button", name="Again", exact=True).click()
    until(page, "document.querySelectorAll('.work:not(.live) audio').length === 2")
    first, second = page.evaluate(GALLERY)
    assert first == second and len(first["data"]) > 3000


def test_two_models_side_by_side_have_the_same_seed(visit):
    page = visit("create")
    page.get_by_label("Compare with").select_option("house/image-fast")
    paint(page, "a blue circle")
    until(page, "document.querySelectorAll('.pair .work:not(.live)').length === 2")
    assert {t.inner_text() for t in page.locator(".pair .tag").all()} == {
        "house/image",
        "house/image-fast",
    }


def test_settings_are_those_of_the_schema(visit):
    page = visit("create")
    page.get_by_text("Settings", exact=True).click()
    steps = page.get_by_label("Steps", exact=True)
    steps.wait_for()
    assert (steps.get_attribute("min"), steps.get_attribute("max")) == ("1", "1000")
    assert page.get_by_text("How closely to follow the prompt").is_visible()
    steps.fill("2")
    with page.expect_request("**/v1/images/generations") as sent:
        paint(page, "a star")
    assert sent.value.post_data_json["steps"] == 2


def test_a_picture_is_edited_by_a_mask(visit, served):
    page = visit("create")
    page.get_by_label("Compare with").wait_for()
    paint(page, "a red square")
    page.get_by_role("button", name="Open: a red square").click()
    page.get_by_role("button", name="Edit", exact=True).click()
    canvas = page.locator(".strokes")
    canvas.wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Paint").click()
    assert "Mark with the brush" in page.get_by_role("alert").inner_text()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.4)
    page.mouse.up()
    page.get_by_label("What is to be there").fill("a green circle")
    page.get_by_role("dialog").get_by_role("button", name="Paint").click()
    page.get_by_role("button", name="Open: a green circle").wait_for()
    before, after = (images.open_image(bytes(item["data"])) for item in page.evaluate(GALLERY))
    changed = (before != after).any(-1)
    assert changed.any() and not changed[40:].any()  # the brush was above


def test_a_mask_is_drawn_with_the_keyboard(visit):
    page = visit("create")
    made = page.evaluate("""async () => {
        const {brushMask} = await import("/studio/components/brush-mask.js");
        const canvas = new OffscreenCanvas(16, 16);
        canvas.getContext("2d").fillRect(0, 0, 16, 16);
        const brush = await brushMask(await canvas.convertToBlob());
        document.body.append(brush);
        brush.drawn.dispatchEvent(new KeyboardEvent("keydown", {key: " "}));
        const drawn = await createImageBitmap(await brush.mask());
        const read = new OffscreenCanvas(16, 16).getContext("2d");
        read.drawImage(drawn, 0, 0);
        brush.remove();
        const alpha = (x, y) => read.getImageData(x, y, 1, 1).data[3];
        return [alpha(8, 8), alpha(0, 0)];
    }""")
    assert made == [0, 255]  # a hole in the middle, the rest as it is


def test_a_source_is_shown_where_its_number_is_clicked(visit):
    page = visit("chat")
    source = {"number": 1, "file": "guide.md", "place": "line 7", "heading": "Harvest", "text": "Pears <b>are</b> ripe."}  # fmt: skip
    said = {"choices": [{"delta": {"content": "In autumn. [1] [2]"}}]}
    end = {"choices": [{"delta": {}}], "daedal": {"documents": {"sources": [source]}}}
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in (said, end)) + "data: [DONE]\n\n"
    asked = []

    def answer(route):
        asked.append(route.request.post_data_json)
        route.fulfill(body=body, headers={"content-type": "text/event-stream"})

    page.route("**/v1/chat/completions", answer)
    page.get_by_role("combobox", name="Model").wait_for()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Documents").select_option("true")
    page.get_by_label("Message", exact=True).fill("When are pears picked?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Source 1").click()
    assert page.locator("figure.source blockquote").inner_text() == source["text"]
    assert page.locator("figure.source figcaption").inner_text() == "guide.md, Harvest, line 7"
    page.get_by_role("button", name="Source 1").click()
    assert (
        page.locator("figure.source").count() == 0 and "[2]" in page.locator(".prose").inner_text()
    )
    assert asked[0]["documents"] is True and asked[0]["stream"] is True


def test_a_chat_is_stopped_branched_and_kept(visit, served):
    page = visit("chat")
    page.get_by_role("combobox", name="Model").wait_for()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Temperature").fill("2")  # so that it does not come to an end
    page.get_by_label("Max tokens").fill("450")
    page.get_by_label("Message", exact=True).fill("Tell me a long story.")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.message.assistant .body')?.innerText.trim()")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    end = time.monotonic() + 5
    while served.server.driver.busy:
        assert time.monotonic() < end
        time.sleep(0.01)
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("20")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edit the message").fill("What is 3 plus 4?")
    page.locator(".message.user form button").click()
    page.get_by_text("tok/s").wait_for()
    assert "7" in page.locator(".message.assistant .body").inner_text()
    assert page.get_by_text("2/2").is_visible()
    page.get_by_role("button", name="Branch before").click()
    assert page.get_by_text("Tell me a long story.").last.is_visible()
    page.reload()
    page.get_by_role("button", name=re.compile("^Tell me|^What is")).first.click()
    assert page.locator(".message.user").inner_text().startswith("You")


def test_what_a_model_says_is_never_html(visit):
    page = visit("chat")
    text = "**b** <img src=x onerror=alert(1)> [x](javascript:alert(1)) `<script>`\\n\\n```js\\n</code>\\n```"
    found = page.evaluate(
        """async (text) => {
            const {markdown} = await import("/studio/components/markdown.js");
            const made = markdown(text.replaceAll("\\\\n", "\\n"));
            return [made.querySelectorAll("img, script, a").length, made.querySelector("strong").textContent,
                made.querySelector("pre").textContent, made.textContent.includes("<img src=x")];
        }""",
        text,
    )
    assert found == [0, "b", "</code>", True]


def test_functions_and_json_go_with_the_request(visit):
    page = visit("chat")
    page.get_by_role("combobox", name="Model").wait_for()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Answers are").select_option("json_object")
    page.get_by_label("Functions").fill('[{"name": "f", "parameters": {"type": "object"}}]')
    page.get_by_label("Message", exact=True).fill("Hello")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send", exact=True).click()
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["tools"][0]["function"]["name"] == "f"
    assert body["response_format"] == {"type": "json_object"}
    page.get_by_role("button", name="Send", exact=True).wait_for()


def test_code_is_tested_and_completed(visit):
    page = visit("code")
    code = "def double(x: int) -> int:\n    return x * 2\n"
    page.get_by_label("Code", exact=True).fill(code)
    page.get_by_label("Model", exact=True).select_option("house/chat")
    page.get_by_role("radio", name="Test", exact=True).check()
    page.get_by_role("button", name="Test", exact=True).click()
    page.get_by_text("mutants noticed").wait_for()
    page.get_by_role("button", name="Add to the code").click()
    until(page, "document.querySelector('.editor').value.includes('assert double(')")
    page.get_by_label("Code", exact=True).fill("Once upon a ")
    page.get_by_label("Code", exact=True).press("Control+ ")
    until(page, "document.querySelector('.editor').value.length > 20")
    assert page.evaluate(
        "getSelection().toString() !== '' || document.activeElement.selectionEnd > 12"
    )


def test_a_model_is_pulled_from_a_local_file(visit, tmp_path, monkeypatch):
    source = tmp_path / "little.gguf"
    source.write_bytes(b"GGUF" + bytes(1000))
    entry = catalogue.Entry("little", "tests", "none", f"file:{source}", file="little.gguf")
    monkeypatch.setenv("DAEDAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalogue, "entries", lambda: {"little": entry})
    page = visit("models")
    page.get_by_role("button", name="Pull little").click()
    page.get_by_role("row", name="little").get_by_text("here", exact=True).wait_for()
    assert (tmp_path / "cache" / "models" / "little.gguf").read_bytes() == source.read_bytes()


def test_models_are_loaded_and_unloaded(visit, served):
    page = visit("models")
    page.get_by_role("button", name="Card house/image-fast", exact=True).wait_for()
    if page.get_by_role("button", name="Unload house/image-fast").count():
        page.get_by_role("button", name="Unload house/image-fast").click()
    page.get_by_role("button", name="Load house/image-fast", exact=True).click()
    page.get_by_role("button", name="Unload house/image-fast").wait_for()
    assert "house/image-fast" in page.locator(".legend").inner_text()
    page.get_by_role("button", name="Card house/image-fast", exact=True).click()
    assert page.locator("dialog .prose").inner_text()


def test_a_training_is_started_and_watched_and_its_model_used(visit, served):
    page = visit("train")
    page.get_by_role("button", name="Start text/tiny", exact=True).click()
    page.get_by_label("Name of the run").fill("browser")
    page.get_by_label("Steps", exact=True).fill("6")
    page.get_by_label("Sample every").fill("3")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("line-plot svg").first.wait_for()
    page.get_by_role("link", name="Use it").wait_for()
    page.get_by_text("It writes").wait_for()
    assert "step 6 of 6" in page.locator("run-view .head").inner_text()
    page.get_by_role("link", name="Use it").click()
    until(page, "document.querySelector('page-create select')?.value === 'runs/browser'")
    page.goto(f"{served.url}/#/train/browser")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/#/train")


CAT, FISH = "Tell me a story about a cat.", "Tell me a story about a fish."


def test_pairs_are_labelled_with_the_arrow_keys(visit, served):
    page = visit("label")
    page.get_by_label("Prompts, one a line").fill(f"{CAT}\n{FISH}\nTell me a story about a hat.")
    page.get_by_label("File", exact=True).fill("browsed")
    page.get_by_role("button", name="Begin").click()
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown"):
        page.locator(".side").first.wait_for()
        asked = page.locator(".asked").inner_text()
        page.keyboard.press(key)
        until(page, "(asked) => document.querySelector('.asked')?.innerText !== asked", asked)
    page.get_by_text("2 pairs in browsed").wait_for()
    rows = served.http.get("/v1/preferences/browsed").json()
    assert rows["prompts"] == [CAT, FISH]
    page.get_by_role("button", name="Delete browsed").click()


def test_pictures_are_labelled(visit, served):
    page = visit("label")
    page.get_by_label("Pictures").check()
    page.get_by_label("Prompts, one a line").fill("a red star")
    page.get_by_label("File", exact=True).fill("seen")
    page.get_by_role("button", name="Begin").click()
    page.locator(".side img").nth(1).wait_for()
    page.locator(".side").first.click()
    page.get_by_text("1 pairs in seen").wait_for()
    assert served.http.get("/v1/preferences/seen").json()["kind"] == "image"
    page.get_by_role("button", name="Delete seen").click()


def test_history_is_searched_and_made_again(visit, served):
    served.post("/v1/images/generations", prompt="a violet heart", seed=1)
    page = visit("history")
    page.get_by_label("Search").fill("violet heart")
    entry = page.locator(".entry").filter(has_text="a violet heart").first
    entry.get_by_role("button", name="Make generation").click()
    page.get_by_text("the same, to the byte").wait_for()


def test_a_measuring_has_intervals(visit):
    page = visit("measure")
    page.get_by_label("Model").select_option("house/text")
    page.get_by_label("Generated texts").fill("tales:4:1")
    page.get_by_role("button", name="Measure", exact=True).click()
    page.locator(".intervals .range").first.wait_for(state="attached")  # flat, so never "visible"


# ---- for everybody -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit("create", color_scheme=scheme)
    faults = []
    for name in PAGES:
        page.goto(page.url.partition("#")[0] + f"#/{name}")
        page.wait_for_selector(f"page-{name} :is(button, select)")
        page.wait_for_load_state("networkidle") if name != "models" else page.wait_for_timeout(300)
        page.evaluate("document.querySelectorAll('main details').forEach((d) => (d.open = true))")
        tags = ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]
        found = axe.run(page, options={"runOnly": tags}).response["violations"]
        faults += [(name, v["id"], n["html"][:120]) for v in found for n in v["nodes"]]
    assert not faults


def test_axe_finds_no_fault_in_dialogs_and_conversations(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(name):
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        found = axe.run(page, options=options).response["violations"]
        assert not [(name, v["id"], n["html"][:120]) for v in found for n in v["nodes"]]

    page = visit("create")
    page.get_by_label("Compare with").wait_for()
    paint(page, "a red square")
    for name in ("Edit", "Extend"):
        page.get_by_role("button", name="Open: a red square").click()
        check("picture")
        page.get_by_role("button", name=name, exact=True).click()
        page.get_by_role("dialog").get_by_label("What is to be there").wait_for()
        check(name)
        page.keyboard.press("Escape")
    page.goto(page.url.partition("#")[0] + "#/train")
    page.get_by_role("button", name="Start chat/dpo").click()
    page.get_by_role("dialog").locator("settings-form").wait_for()
    check("recipe")
    page.keyboard.press("Escape")
    page.goto(page.url.partition("#")[0] + "#/chat")
    page.get_by_role("combobox", name="Model").wait_for()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    page.get_by_text("tok/s").wait_for()
    check("conversation")


OVERLAPS = """() => {
    const all = [...document.querySelectorAll("main :is(button, select, textarea, .button)")];
    const boxes = all.map((e) => [e, e.getBoundingClientRect()]).filter(([, b]) => b.width);
    const on = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes.flatMap(([e, a], i) => boxes.slice(i + 1)
        .filter(([f, b]) => on(a, b) && !e.closest(".column > form") && !f.closest(".column > form"))
        .map(([f]) => [e.outerHTML.slice(0, 60), f.outerHTML.slice(0, 60)]));
}"""


def test_nothing_is_wider_than_a_telephone(visit):
    page = visit("create", viewport={"width": 360, "height": 740})
    for name in PAGES:
        page.goto(page.url.partition("#")[0] + f"#/{name}")
        page.wait_for_selector(f"page-{name} :is(button, select)")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        assert page.evaluate(OVERLAPS) == [], name


def test_the_keyboard_reaches_everything_and_is_seen(visit):
    page = visit("create")
    page.get_by_label("Compare with").wait_for()
    page.evaluate("document.body.focus()")
    wanted = page.evaluate("""() => [...document.querySelectorAll(
        'a[href], button, select, textarea, summary, input:not([type=radio])')].length""")
    seen = set()
    for _ in range(wanted + 8):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate("""() => {
            const at = document.activeElement;
            at.dataset.visited ??= String(document.querySelectorAll("[data-visited]").length);
            const box = at.matches("input[type=radio]") ? at.nextElementSibling : at;
            const label = at.matches("input[type=file]") ? at.parentElement : box;
            return [at.tagName, at.dataset.visited, getComputedStyle(label).outlineStyle].join();
        }""")
        )
    reached = {each for each in seen if not each.startswith("BODY")}
    assert len(reached) >= wanted
    assert not [each for each in reached if each.endswith("none")]


def test_the_theme_is_switched_and_kept(visit):
    page = visit("create")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for _ in range(2):
        page.get_by_role("button", name=re.compile("^Theme")).click()
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) != light


def test_a_server_with_keys_is_asked_for_one(browser, serve, tmp_path):
    keys = tmp_path / "keys.yaml"
    keys.write_text("ann: {key: secret-one}\n")
    served = serve(keys=keys)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{served.url}/#/models")
    page.get_by_label("Key", exact=True).fill("secret-one")
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("button", name="Load house/image", exact=True).wait_for()
    context.close()


def test_memory_is_entered_changed_and_forgotten(visit, served):
    served.http.delete("/v1/memories")
    page = visit("memory")
    page.get_by_text("Nothing is remembered").wait_for()
    page.get_by_label("Fact", exact=True).fill("favourite fruit")
    page.get_by_label("is", exact=True).fill("pears")
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Change favourite fruit: pears").click()
    page.get_by_role("dialog").get_by_label("favourite fruit").fill("figs")
    page.get_by_role("dialog").get_by_role("button", name="Change").click()
    page.get_by_role("button", name="Forget favourite fruit: figs").click()
    page.get_by_text("Nothing is remembered").wait_for()
    assert served.http.get("/v1/memories").json()["data"] == []


def test_a_chat_with_remember_keeps_what_is_said(visit, served):
    served.http.delete("/v1/memories")
    page = visit("chat")
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Remember what I say").check()
    page.get_by_label("Message", exact=True).fill("My name is Pim.")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Retry").first.wait_for()
    page.goto(f"{served.url}/#/memory")
    page.get_by_text("name: Pim").wait_for()
    page.get_by_role("button", name="Forget everything").click()
    page.get_by_role("button", name="Yes, forget everything").click()
    page.get_by_text("Nothing is remembered").wait_for()


def test_a_picture_and_a_text_are_checked(visit, tmp_path):
    recipe = {"model": "house/image", "prompt": "a red circle", "settings": {"seed": 1}}
    picture = images.save_image(np.zeros((32, 32, 3), np.uint8), tmp_path / "a.png", recipe)
    page = visit("check")
    page.get_by_label("A picture, sound, clip or text file").set_input_files(picture)
    page.get_by_role("button", name="Check").click()
    page.get_by_text("its metadata names house/image").wait_for()
    page.get_by_text("the model has no index of what it was trained on").wait_for()
    page = visit("check")
    page.get_by_label("Text", exact=True).fill("How do I hurt my neighbour?")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("heading", name="What it is about").wait_for()
    page.get_by_role("cell", name="violence", exact=True).wait_for()
