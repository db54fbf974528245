"""The web folder: its files, and the page in a real browser."""

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.exporting import onnx_file, web_folder
from helpers.browser import BROWSERS
from helpers.exporting import run
from helpers.markers import skip_on_jax
from helpers.workplace import OPENAI_TINY, ROOT, list_names

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = skip_on_jax


def test_the_folder_holds_all_that_the_page_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, files in {
        "@huggingface/transformers": ["LICENSE", "dist/transformers.min.js"],
        "onnxruntime-web": ["dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"],
    }.items():
        for file in files:
            path = tmp_path / "node_modules" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {file}")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    web_folder.write(open_model(OPENAI_TINY), Path("web"))
    web = Path("web")
    texts = {file: (web / file).read_text() for file in ("index.html", "page.js", "worker.js")}
    loaded = set(re.findall(r'(?:href|src)="([\w.]+)"', texts["index.html"]))
    loaded |= set(re.findall(r"new Worker\('(.*?)'", texts["page.js"]))
    worker = re.findall(r"from '\./(.*?)'|fetch\('(.*?)'\)|\$\{here\}(.*?)`", texts["worker.js"])
    loaded |= {"".join(names) for names in worker}
    assert {"page.css", "worker.js", "lib/ort.wasm", "model/config.json"} < loaded
    assert all((web / file).is_file() for file in loaded)
    assert list_names(web / "lib") == ["LICENSE.txt", "ort.mjs", "ort.wasm", "transformers.min.js"]
    assert (web / "lib" / "ort.wasm").read_text() == "onnxruntime-web dist/ort-wasm-simd-threaded.wasm"
    assert list_names(web / "model" / "onnx") == ["model_quantized.onnx"]
    assert not any(re.search("https?://", text) for text in texts.values())


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="npm install --ignore-scripts @huggingface/transformers"):
        web_folder.write(open_model(OPENAI_TINY), Path("web"))
    assert not list_names(tmp_path)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page of a tiny model in float32, served by a plain server of files."""
    packages = Path(os.environ.get("NODE_PATH", ROOT / "node_modules"))
    if not (packages / web_folder.PACKAGE).is_dir():
        pytest.skip("the npm package @huggingface/transformers is not installed")
    (tmp_path / "node_modules").symlink_to(packages)
    monkeypatch.chdir(tmp_path)
    web_folder.write(open_model(OPENAI_TINY), Path("web"), "float32")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory="web")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
def test_the_page_writes_our_greedy_text_stops_and_asks_no_other_server(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs a browser: install chromium")
    tokenizer = open_model(OPENAI_TINY).tokenizer
    prompt = tokenizer.encode("The tide")
    logits_of, ids = onnx_file.read_logits(Path("web/model")), list(prompt)
    for _ in range(20):
        ids.append(int(run(logits_of, np.array(ids))[-1].argmax()))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])  # CI runs as root
        context = browser.new_context()
        page, asked, errors = context.new_page(), [], []
        context.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        status = page.locator("#status")
        playwright.expect(status).to_have_text(re.compile("^ready: runs on the"), timeout=120_000)
        for name, value in (("Prompt", "The tide"), ("New tokens", "20"), ("Temperature", "0")):
            page.get_by_label(name).fill(value)
        page.keyboard.press("Control+Enter")
        playwright.expect(status).to_have_text(re.compile("^20 tokens.*done$"), timeout=120_000)
        text = page.locator("#written").text_content()
        page.get_by_label("New tokens").fill("50")
        page.evaluate("() => ['go', 'stop'].forEach((id) => document.getElementById(id).click())")
        playwright.expect(status).to_have_text(re.compile("stopped$"), timeout=120_000)
        browser.close()
    assert text == tokenizer.decode(ids[len(prompt) :])
    assert not errors and {url for url in asked if url.startswith(address)} == set(asked)
    assert f"{address}lib/ort.wasm" in asked
