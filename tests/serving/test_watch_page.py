"""The page of `gpt-tf2 watch` in a real browser, with histories that grow while it looks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt_tf2.storage.locks import write_alone
from gpt_tf2.training.loggers.history_file import HISTORY, HistoryFile
from gpt_tf2.training.loggers.logger import LoggedRun
from gpt_tf2.watching.app import make_app
from helpers.browser import expect, open_page
from helpers.serving import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow
KEY = "lantern"


class Trained:
    """A run whose steps a test writes."""

    def __init__(self, folder: Path, lr: float = 0.1, steps: int = 40):
        self.history = HistoryFile(LoggedRun(folder.name, {"lr": lr, "batch_size": 2}), folder / HISTORY, steps)
        self.lr, self.done = lr, 0

    def train(self, steps: int) -> "Trained":
        """Writes steps, of which every tenth is followed by a validation and a sample."""
        for step in range(self.done + 1, self.done + steps + 1):
            loss = 1 + 4 / step + self.lr
            figures = {"loss/training": loss, "learning_rate": self.lr, "tokens_per_second": 1000.0 + step}
            self.history.log(figures | {"peak_memory_gb": 0.5}, step)
            if step % 10 == 0:
                self.history.log({"loss/validation": loss + 0.5}, step)
                self.history.log_text("sample", f"The tide after {step}", step)
        self.done += steps
        return self

    def end(self) -> None:
        self.history.close(True)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Trained, Trained]:
    """Two runs that have ended."""
    runs = Trained(tmp_path / "bold", 0.5).train(40), Trained(tmp_path / "steady", 0.1).train(40)
    for run in runs:
        run.end()
    return runs


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of the page of all runs in the folder."""
    with running(make_app([tmp_path])) as url:
        yield url


@pytest.fixture
def page(browser: "Browser", url: str) -> "Iterator[Page]":
    yield from open_page(browser, url)


def chart(page: "Page", name: str) -> "Locator":
    """The part of the page that can be pointed at."""
    return page.get_by_role("slider", name=name)


def test_a_run_is_seen_from_its_begin_to_its_end_and_again(tmp_path: Path, page: "Page") -> None:
    expect(page.locator("#empty")).to_be_visible()
    with write_alone(tmp_path / "book.h5", "output", tmp_path / "book"):
        run = Trained(tmp_path / "book")
        expect(page.locator(".chip")).to_have_text(re.compile("book.*starting"))
        run.train(10)
        expect(page.locator(".chip")).to_have_text(re.compile("book.*running"))
        line = page.locator(".tall path.line.training")
        before = line.get_attribute("d") or ""
        page.locator("#charts .plot").first.focus()
        page.keyboard.press("Home")
        run.train(20)
        expect(page.locator("#last td").nth(1)).to_have_text("30 / 40")
        assert before.count("L") < 10 and (line.get_attribute("d") or "").count("L") == 29
        expect(chart(page, "Loss")).to_be_focused()  # as somebody reads on it
        expect(chart(page, "Loss").locator(".tip b")).to_have_text("step 0")
        expect(page).to_have_title("75 % · gpt-tf2 watch")
        expect(page.locator("#samples summary")).to_have_text(["step 30", "step 20", "step 10"])
        expect(page.locator("#samples p").first).to_have_text("The tide after 30")
        expect(page.locator("#samples p").last).to_be_hidden()
        run.train(10).end()
    expect(page.locator("#status")).to_have_text("book: finished")
    row = page.locator("#last td").all_text_contents()
    assert row[:6] == ["finished", "40 / 40", "1.236", "1.700", "1.700, step 40", "0.1"]
    with write_alone(tmp_path / "book.h5", "output", tmp_path / "book"):
        expect(page.locator("#status")).to_have_text("book: starting")
        again = Trained(tmp_path / "book", steps=20).train(4)
        expect(page.locator("#last td").nth(1)).to_have_text("4 / 20")
        expect(page.locator("#samples")).to_be_hidden()
        assert (line.get_attribute("d") or "").count("L") == 3
    expect(page.locator("#status")).to_have_text("book: killed")
    again.history.file.close()


def test_runs_are_laid_over_each_other_and_the_legend_hides_them(two: tuple[Trained, Trained], page: "Page") -> None:
    lines = page.locator(".tall path.line.training")
    expect(lines).to_have_count(2)
    colors = lines.evaluate_all("lines => lines.map(line => getComputedStyle(line).stroke)")
    assert len(set(colors)) == 2
    chip = page.get_by_role("button", name="bold")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "false")
    expect(lines).to_have_count(1)
    assert lines.evaluate("line => getComputedStyle(line).stroke") == colors[1]  # it keeps its color
    expect(page.locator("#samples h3")).to_have_text(["steady"])
    chip.click()
    expect(lines).to_have_count(2)
    expect(page.locator("#last tbody tr")).to_have_count(2)
    expect(page.locator("#settings thead th")).to_have_text(["Run", "lr"])
    expect(page.locator("#settings td")).to_have_text(["0.5", "0.1"])


def test_values_are_pointed_at(two: tuple[Trained, Trained], page: "Page") -> None:
    page.get_by_label("Smoothing").select_option("none")
    loss = chart(page, "Loss")
    box = loss.bounding_box()
    assert box
    loss.hover(position={"x": box["width"] - 2, "y": 100})
    expect(loss.locator(".tip b")).to_have_text("step 40")
    values = ["bold1.600", "bold, validation2.100", "steady1.200", "steady, validation1.700"]
    expect(loss.locator(".tip div")).to_have_text(values)
    page.mouse.move(0, 0)
    expect(loss.locator(".tip")).to_be_hidden()
    expect(loss).to_have_attribute(
        "aria-valuetext", re.compile("^step 40, bold training 1.600, bold validation 2.100, ")
    )
    chart(page, "Tokens/s").hover(position={"x": 60, "y": 50})
    expect(chart(page, "Tokens/s").locator(".tip")).to_be_visible()


def test_the_axis_is_steps_or_time(tmp_path: Path, browser: "Browser", url: str) -> None:
    lines = [{"run": "m", "steps": 4, "step": 0, "time": 100}, *({"step": n, "time": 100 + 60 * n} for n in (1, 2))]
    lines += [{"run": "m", "steps": 4, "step": 2, "time": 9000}, *({"step": n, "time": 8880 + 60 * n} for n in (3, 4))]
    (tmp_path / "m").mkdir()
    for line in lines:
        line |= {} if "run" in line else {"loss/training": 5 - line["step"]}
    text = "".join(f"{line}\n".replace("'", '"') for line in lines)
    (tmp_path / "m" / HISTORY).write_text(f'damaged\n[3]\n{{"step": 1e999, "time": 1}}\n{text}')
    for page in open_page(browser, url):
        expect(page.locator(".tall .axes text").last).to_have_text("4")
        page.get_by_label("Time").check()
        expect(page.locator(".tall .axes text").last).to_have_text("4:00")  # without the hours in which it was stopped
        expect(page.locator("#last td").nth(1)).to_have_text("4 / 4")


def test_everything_by_keyboard(two: tuple[Trained, Trained], page: "Page") -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Time")).to_be_checked()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Smoothing")).to_be_focused()
    page.keyboard.type("none")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".chip").first).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    loss = chart(page, "Loss")
    expect(loss).to_be_focused()
    for key, step, value in [
        ("End", 40, "1.200"),
        ("ArrowLeft", 39, "1.203"),
        ("Home", 0, ""),
        ("PageUp", 10, "1.500"),
    ]:
        page.keyboard.press(key)
        expect(loss.locator(".tip b")).to_have_text(f"step {step}")
        expect(loss).to_have_attribute("aria-valuetext", re.compile(f"^step {step}.*{value}"))
    page.keyboard.press("Escape")
    expect(loss.locator(".tip")).to_be_hidden()
    controls = re.findall(r"- (button|combobox|slider|radio)\b(.*)", page.locator("body").aria_snapshot())
    assert len(controls) == 9 and all(re.match(' "', rest) for _, rest in controls), controls


def test_360_pixels_are_enough(two: tuple[Trained, Trained], browser: "Browser", url: str) -> None:
    for page in open_page(browser, url, 360):
        expect(page.locator("#samples p").first).to_be_visible()
        chart(page, "Loss").hover(position={"x": 150, "y": 60})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        outside = "[...document.querySelectorAll('button, select, svg, td, .tip')].filter(e => "
        outside += "e.getBoundingClientRect().right > 360).map(e => e.className || e.tagName)"
        assert page.evaluate(outside) == []


def test_a_long_run_is_thinned_to_what_can_be_seen(two: tuple[Trained, Trained], page: "Page") -> None:
    call = """async ([count, most]) => {
        const { thin } = await import('/page/numbers.js');
        const xs = Array.from({ length: count }, (_, index) => index);
        const ys = xs.map((x) => (x === 4321 ? 9 : x === 1234 ? -9 : Math.sin(x)));
        return thin(xs, ys, most);
    }"""
    points = page.evaluate(call, [100_000, 500])
    assert len(points) <= 500 and [4321, 9] in points and [1234, -9] in points
    assert points == sorted(points)
    assert len(page.evaluate(call, [400, 500])) == 400


def test_the_key_is_asked_for(two: tuple[Trained, Trained], tmp_path: Path, browser: "Browser") -> None:
    with running(make_app([tmp_path], api_key=KEY)) as url:
        for page in open_page(browser, url, key=True):
            page.get_by_role("textbox", name="Key").fill(KEY)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator(".chip")).to_have_count(2)
