"""The page at `/`: files that a browser needs no key for, and that may load nothing from elsewhere."""

from collections.abc import Iterable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
START = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer version of the server has a newer page
}


def page_routes(files: Iterable[Path]) -> list[Route]:
    """A route for each file of a page, which are read once: `/` for `index.html`, the others below `/page/`.

    Example:
        >>> [route.path for route in page_routes(FOLDER.iterdir())][:2]
        ['/page/alternatives.js', '/page/api.js']
    """
    return [make_route(file) for file in sorted(files) if file.suffix in MEDIA_TYPES]


def make_route(file: Path) -> Route:
    """The route of a file."""
    content = file.read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=MEDIA_TYPES[file.suffix], headers=HEADERS)

    return Route("/" if file.name == START else f"/page/{file.name}", send)


def is_of_page(path: str) -> bool:
    """Whether a path is one of the page's own."""
    return path == "/" or path.startswith("/page/")
