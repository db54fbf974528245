"""The application: the page, and what runs have written since it asked last."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpt_tf2.serving import page_files
from gpt_tf2.serving.connection import JSON
from gpt_tf2.serving.page_files import page_routes
from gpt_tf2.serving.security import Guard
from gpt_tf2.training.loggers.history_file import HISTORY
from gpt_tf2.watching.run_folders import Position, find_runs, is_running, read_appended

FOLDER = Path(__file__).parent / "page"
SHARED = ("api.js", "dom.js", "icon.svg", "key.js", "style.css")  # with the page of `serve`
MOST_BYTES = 1 << 20  # of a run; an answer that holds as many leaves further runs for the next one
POSITION = re.compile(r"(\d{1,18})-(\d{1,18})-([0-9a-f]{16})")


def make_app(outputs: Sequence[Path], api_key: str | None = None, local: bool = True) -> Starlette:
    """The application.

    Args:
        outputs: see `find_runs`. They are looked through at each request: runs that begin appear.
        api_key, local: who may ask; see `Guard`.
    """
    shared = (page_files.FOLDER / name for name in SHARED)
    return Starlette(
        routes=[
            Route("/runs", functools.partial(show_runs, outputs)),
            *page_routes([*FOLDER.iterdir(), *shared]),
        ],
        middleware=[Middleware(Guard, api_key=api_key, local=local and api_key is None)],
    )


def show_runs(outputs: Sequence[Path], request: Request) -> Response:
    """`GET /runs?NAME=POSITION&…`: the runs, and what they have written beyond the positions of the last answer."""
    runs: list[dict[str, Any]] = []
    left = MOST_BYTES
    for name, folder in find_runs(outputs).items():
        run = describe_run(name, folder, request.query_params.get(name, ""), is_read=left > 0)
        left -= len(run["lines"])
        runs.append(run)
    return JSON({"runs": runs})


def describe_run(name: str, folder: Path, known_position: str, is_read: bool) -> dict[str, Any]:
    """A run, and the lines of its history beyond a position, or none but the word that there may be more."""
    running = is_running(folder)  # first: a run that ends now has its last line in what is read
    told = {"name": name, "running": running}
    if not is_read:
        return told | {"replaces": False, "position": known_position, "lines": "", "complete": False}
    known = POSITION.fullmatch(known_position)
    position = Position(int(known[1]), int(known[2]), known[3]) if known else Position()
    appended = read_appended(folder / HISTORY, position, MOST_BYTES)
    position = appended.position
    return told | {
        "replaces": appended.start == 0,
        "position": f"{position.start}-{position.end}-{position.digest}",
        "lines": appended.text,
        "complete": appended.is_all,
    }
