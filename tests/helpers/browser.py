"""A page in a real browser, which the system has."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "google-chrome")
SECONDS = 60  # that a wait takes at most


def open_page(browser: "Browser", url: str, width: int = 1100, key: bool = False) -> "Iterator[Page]":
    """The page in a fresh browser. At the end it must not have had an error, nor asked another server.

    key: whether the page begins by asking for one.
    """
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else errors.append(request.url))
    page.goto(url)
    if not key:
        expect(page.locator("body[data-ready]")).to_be_visible()
    yield page
    context.close()
    assert not errors


def expect(*arguments: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=SECONDS * 1000)
    return expect(*arguments)
