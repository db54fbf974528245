"""An error as OpenAI's API reports it."""

from typing import Any


class ApiError(Exception):
    """A request that cannot be answered: an HTTP status, and what a client's `error` object says.

    Args:
        message: what is wrong, and the fix.
        param: the field at fault, if one is.
        status: 4xx for what the client can change, 503 for what it cannot.
        code: a name for programs, such as `model_not_found`.
        retry_after: seconds after which another try makes sense, if it does.

    Example:
        >>> ApiError("use 0 or more", "top_k").to_json()["error"]["param"]
        'top_k'
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.message, self.param, self.status, self.code, self.retry_after = message, param, status, code, retry_after

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
