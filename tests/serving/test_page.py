"""The page at `/`: its files and their headers, and the page in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.serving.page_files import FOLDER
from gpt_tf2.tasks.chat_template import FILE, ChatTemplate, format_template
from helpers.browser import expect, open_page
from helpers.serving import HTTP, Gate, open_served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEMPLATE = ChatTemplate(("T: ", "\n"), ("\nQ: ", ""), ("\nA: ", "!"))
KEY = "lantern"


def test_the_page_and_all_that_it_loads_is_served_under_a_strict_policy(url: str) -> None:
    start = HTTP.get(url)
    assert start.headers["content-type"] == "text/html; charset=utf-8"
    scripts = {file.name: file.read_text() for file in FOLDER.glob("*.js")}
    loaded = set(re.findall(r'(?:href|src)="(page/.*?)"', start.text))
    loaded |= {f"page/{name}" for text in scripts.values() for name in re.findall(r'from "\./(.*?)"', text)}
    assert loaded == {f"page/{file.name}" for file in FOLDER.iterdir() if file.suffix != ".html"}
    for answer in (start, *(HTTP.get(f"{url}/{path}") for path in loaded)):
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<style|\sstyle=|<script>|\son\w+=", answer.text)
    assert HTTP.get(f"{url}/page/../app.py").status_code == HTTP.get(f"{url}/page/%2e%2e/app.py").status_code == 404


def test_the_page_needs_no_key_but_the_models_do(tiny: Path, lm: LanguageModel) -> None:
    with serving(open_served(tiny), api_key=KEY) as url:
        assert HTTP.get(url).status_code == HTTP.get(f"{url}/page/main.js").status_code == 200
        assert HTTP.get(f"{url}/v1/models").status_code == HTTP.get(f"{url}/pages").status_code == 401


def test_models_say_how_they_chat(three: list[Path]) -> None:
    with serving(open_served(*three)) as url:
        chats = {model["id"]: model["chat"] for model in HTTP.get(f"{url}/v1/models").json()["data"]}
    assert chats == {"story": None, "chatty": "messages", "answers": "passage"}


@pytest.fixture(scope="module")
def three(tiny: Path, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One model as three: trained on texts, on chats, and on CoQA."""
    folder = tmp_path_factory.mktemp("page")
    paths = [Path(shutil.copytree(tiny, folder / name)) for name in ("story", "chatty", "answers")]
    (paths[1] / FILE).write_text(format_template(TEMPLATE))
    (paths[2] / "run.toml").write_text('task = "coqa"\n')
    return paths


@pytest.fixture(scope="module")
def gate() -> Gate:
    """Stands before the steps of the first model."""
    return Gate()


@pytest.fixture(scope="module")
def address(three: list[Path], gate: Gate) -> Iterator[str]:
    with serving(gate.before(open_served(*three))) as url:
        yield url


@pytest.fixture
def page(browser: "Browser", address: str) -> "Iterator[Page]":
    yield from open_page(browser, address)


def continue_text(page: "Page", text: str, tokens: int = 6) -> str:
    """Has the first model continue a text with one seed. Returns the whole text."""
    page.get_by_role("spinbutton", name="Length").fill(str(tokens))
    page.get_by_role("spinbutton", name="Seed").fill("6")
    page.locator("#text").fill(text)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#write-status")).to_contain_text("tokens/s")
    return page.locator("#text").input_value()


def complete(url: str, prompt: str | list[int], tokens: int = 6) -> str:
    """How the API continues a prompt when it is asked as the page asks."""
    asked = {"model": "story", "prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "top_p": 0.95, "seed": 6}
    return HTTP.post(f"{url}/v1/completions", json=asked).json()["choices"][0]["text"]


@pytest.mark.slow
def test_write_continues_and_undoes(page: "Page", address: str) -> None:
    written = continue_text(page, "The tide")
    assert written == "The tide" + complete(address, "The tide") and len(written) > len("The tide")
    assert "The tide" + (page.locator("#written[aria-live]").text_content() or "") == written  # for screen readers
    page.locator("#text").press("End")
    page.keyboard.type(" and")
    for button, text in [
        ("Undo", written),
        ("Undo", "The tide"),
        ("Undo", ""),
        ("Redo", "The tide"),
        ("Redo", written),
        ("Redo", written + " and"),
    ]:
        page.get_by_role("button", name=button).click()
        expect(page.locator("#text")).to_have_value(text)


@pytest.mark.slow
def test_tokens_lie_where_their_characters_do(page: "Page") -> None:
    parts = [("bytes:1", 0), ("bytes:2", 0), (" b", 1), ("c", 3)]
    scored = [{"name": name, "offset": offset, "top": {" x": -1}} for name, offset in parts]
    call = "async ([scored]) => (await import('/page/draft.js')).append({text: 'a', tokens: []}, '😀 bc', scored)"
    draft = page.evaluate(call, [scored])
    assert draft["text"] == "a😀 bc"
    assert [(token["name"], token["start"], token["end"]) for token in draft["tokens"]] == [
        ("bytes:2", 1, 3),  # in JavaScript's units, of which the emoji has two
        (" b", 3, 5),
        ("c", 5, 6),
    ]
    call = "async ([draft]) => (await import('/page/draft.js')).edit(draft, 'a😀 bac').tokens.length"
    assert page.evaluate(call, [draft]) == 2  # the one after the edit has other probabilities now
    call = "async ([draft]) => (await import('/page/draft.js')).branch(draft, draft.tokens[1], ' x')"
    branched = page.evaluate(call, [draft])
    assert branched["text"] == "a😀 x" and [token["name"] for token in branched["tokens"]] == ["bytes:2", " x"]


@pytest.mark.slow
def test_stop_keeps_what_was_written(page: "Page", gate: Gate) -> None:
    page.get_by_role("spinbutton", name="Length").fill("40")
    page.locator("#text").fill("The")
    gate.shut_after(6)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#text")).not_to_have_value("The")  # it streams: the model is still at work
    expect(page.locator("#text")).not_to_be_editable()
    page.get_by_role("button", name="Stop").click()
    gate.open()
    expect(page.locator("#write-status")).to_have_text("Stopped.")
    expect(page.locator("#text")).to_be_editable()
    assert len(page.locator("#text").input_value()) > len("The")


@pytest.mark.slow
def test_a_token_is_replaced_by_an_alternative_and_goes_on_from_there(page: "Page", address: str) -> None:
    written = continue_text(page, "The tide", 1)
    assert page.locator(".token").count() == 1
    page.locator("#text").scroll_into_view_if_needed()
    box = page.locator(".token").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    window = page.get_by_role("dialog", name="Alternatives")
    expect(window).to_be_visible()
    asked = {"model": "story", "prompt": "The tide", "logprobs": 5, "ignore_eos": True}
    answer = HTTP.post(f"{address}/v1/completions", json=asked).json()
    top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    names = [name.replace(" ", "␣").replace("\n", "↵") for name in sorted(top, key=lambda name: -top[name])]
    assert page.locator("#alternatives .name").all_text_contents()[:5] == names
    other = page.locator("#alternatives button:enabled:not(.taken)").first
    chosen = (other.locator(".name").text_content() or "").replace("␣", " ").replace("↵", "\n")
    other.click()
    expect(window).to_be_hidden()
    expect(page.locator("#text")).to_have_value("The tide" + chosen + complete(address, "The tide" + chosen, 1))
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#text")).to_have_value(written)


@pytest.mark.slow
def test_everything_of_writing_by_keyboard(page: "Page") -> None:
    written = continue_text(page, "The tide", 3)
    page.locator("#text").focus()
    page.keyboard.press("End")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#text")).not_to_have_value(written)
    expect(page.locator("#text")).to_be_editable()
    page.keyboard.press("Control+z")
    expect(page.locator("#text")).to_have_value(written)
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("#alternatives")).to_be_visible()
    expect(page.locator("#alternatives button:focus")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(page.locator("#text")).not_to_have_value(written)
    page.get_by_role("tab", name="Write").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Chat")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tabpanel", name="Write")).to_be_visible()


@pytest.mark.slow
def test_every_control_has_a_name(page: "Page") -> None:
    for tab in ("Write", "Chat", "Compare"):
        page.get_by_role("tab", name=tab).click()
        tree = page.locator("body").aria_snapshot()
        controls = re.findall(r"- (button|textbox|spinbutton|combobox|slider|tab)\b(.*)", tree)
        assert len(controls) > 5
        assert all(re.match(' "', rest) for _, rest in controls), tree


@pytest.mark.slow
@pytest.mark.parametrize("model", ["chatty", "answers"])
def test_chat(page: "Page", address: str, model: str, capsys: pytest.CaptureFixture) -> None:
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#no-chat")).to_contain_text("chatty or answers")
    page.get_by_role("combobox", name="Model").select_option(model)
    page.get_by_role("spinbutton", name="Length").fill("5")
    page.get_by_role("spinbutton", name="Seed").fill("4")
    if model == "answers":
        page.get_by_label("Your message").fill("What?")
        page.keyboard.press("Enter")
        expect(page.locator("#chat-status")).to_have_text("Give a passage first.")
    page.locator("#system").fill("It is red.")
    messages = [{"role": "system", "content": "It is red."}]
    for question in ("What?", "Who?"):
        page.get_by_label("Your message").fill(question)
        page.keyboard.press("Enter")
        messages.append({"role": "user", "content": question})
        asked = {"model": model, "max_tokens": 5, "temperature": 0.8, "top_p": 0.95, "seed": 4}
        answer = HTTP.post(f"{address}/v1/chat/completions", json=asked | {"messages": messages}).json()
        reply = answer["choices"][0]["message"]["content"]
        expect(page.locator(".bubble.assistant p").last).to_have_text(reply)
        expect(page.locator("#chat-status")).to_contain_text("tokens/s")
        messages.append({"role": "assistant", "content": reply})
    assert page.locator(".bubble").count() == 4
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#snippet-text")).to_be_visible()
    exec(page.locator("#snippet-text").input_value(), {})
    assert capsys.readouterr().out == reply + "\n"
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Start again").click()
    expect(page.locator(".bubble")).to_have_count(0)


@pytest.mark.slow
def test_compare_writes_both_sides_with_one_seed(page: "Page", address: str) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Prompt").fill("The tide")
    expect(page.locator("#right-model")).to_have_value("chatty")
    page.locator("#right-model").select_option("story")
    for side in ("left", "right"):
        page.locator(f"#{side} select").nth(1).select_option("Balanced")
        page.locator(f"#{side} summary").click()
        page.locator(f"#{side}-max_tokens").fill("6")
    page.get_by_role("spinbutton", name="Seed").fill("6")
    run = page.locator("#run")
    run.click()
    expect(page.locator("#compare-status")).to_have_text("Done.")
    texts = page.locator(".output").all_text_contents()
    assert texts == ["The tide" + complete(address, "The tide")] * 2  # the same model and settings
    page.locator("#right select").nth(1).select_option("Precise")
    run.click()
    expect(page.locator("#right-text")).not_to_have_text(texts[1])
    expect(page.locator("#left-text")).to_have_text(texts[0])


@pytest.mark.slow
def test_code_asks_for_what_the_page_shows(page: "Page", address: str, capsys: pytest.CaptureFixture) -> None:
    written = continue_text(page, 'It\'s a "tide"\n', 4)
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#snippet-text")).to_be_visible()
    exec(page.locator("#snippet-text").input_value(), {})
    assert 'It\'s a "tide"\n' + capsys.readouterr().out == written + "\n"


@pytest.mark.slow
def test_a_setting_that_cannot_be_is_named(page: "Page") -> None:
    page.get_by_role("spinbutton", name="Temperature").fill("9")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#write-status")).to_contain_text("Temperature: use a number from 0 to 2")
    expect(page.get_by_role("button", name="Continue")).to_be_enabled()


@pytest.mark.slow
def test_a_text_beyond_the_context_is_continued_from_its_end(page: "Page", address: str) -> None:
    text = "lantern " * 60
    written = continue_text(page, text, 4)
    expect(page.locator("#write-status")).to_contain_text("The model saw the last 60 tokens of the text.")
    ids = HTTP.post(f"{address}/tokenize", json={"model": "story", "prompt": text}).json()["tokens"]
    assert written == text + complete(address, ids[-60:], 4)


@pytest.mark.slow
def test_an_error_of_the_server_is_shown(page: "Page") -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Prompt").fill("lantern " * 60)  # more than the context
    page.locator("#run").click()
    expect(page.locator("#compare-status.error")).to_contain_text("the model's context is 64")
    expect(page.locator("#run")).to_be_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("tab", ["write", "chat", "compare"])
def test_360_pixels_are_enough(browser: "Browser", address: str, tab: str) -> None:
    for page in open_page(browser, address, 360):
        page.locator("#sampling > summary").click()
        continue_text(page, "The tide")
        page.locator("#model").select_option("answers")
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        outside = "[...document.querySelectorAll('button, input, select, textarea')].filter(e => "
        outside += "e.getBoundingClientRect().right > 360).map(e => e.id)"
        assert page.evaluate(outside) == []


@pytest.mark.slow
def test_the_key_is_asked_for_and_kept_in_the_tab(browser: "Browser", three: list[Path]) -> None:
    models = open_served(three[0])
    models.load_first()
    with serving(models, api_key=KEY) as url:
        for page in open_page(browser, url, key=True):
            for key in ("wrong", KEY):
                page.get_by_role("textbox", name="Key").fill(key)
                page.get_by_role("button", name="Use it").click()
            assert len(continue_text(page, "The tide")) > len("The tide")
            page.get_by_role("button", name="Copy as curl").click()
            expect(page.locator("#snippet-text")).to_be_visible()
            code = page.locator("#snippet-text").input_value()
            assert "Authorization: Bearer $GPT_TF2_API_KEY" in code and KEY not in code
            page.reload()
            expect(page.locator("#model option")).to_have_count(1)
            assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
