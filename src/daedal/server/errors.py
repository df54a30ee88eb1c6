"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from daedal.errors import Busy, DaedalError, NoRoom, TooLong

log = logging.getLogger("daedal.server")

# the `type` that clients match on, by status
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error. `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        plain = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status, plain)
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """A client tries again after as long as this says, and not at all where that is no use."""
        if self.retry_after is None:
            return {"x-should-retry": "false"} if self.status >= 500 else {}
        whole = max(1, round(self.retry_after + 0.5))
        return {"retry-after": str(whole), "retry-after-ms": str(int(self.retry_after * 1000))}


def not_found(what: str, name: str) -> ApiError:
    return ApiError(
        404, f"there is no {what} {name!r}; list them to see what there is.", "not_found"
    )


def api_error(error: BaseException) -> ApiError:
    """What an exception is to a client. What nobody foresaw is logged, and says nothing of the
    machine's inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(429, str(error), "queue_full", retry_after=1)
    if isinstance(error, NoRoom):
        return ApiError(503, str(error), "no_room")
    if isinstance(error, DaedalError):
        code = "context_length_exceeded" if isinstance(error, TooLong) else None
        return ApiError(400, str(error), code)
    log.error("a request failed", exc_info=error)
    return ApiError(
        500, f"the server failed at this request ({type(error).__name__}); its log says why."
    )


def answer(error: BaseException, path: str = "") -> JSONResponse:
    """An error as the dialect of a path has it."""
    found = api_error(error)
    body = found.body
    if path.startswith("/v1/messages"):  # Anthropic's
        body = {"type": "error", **body}
    elif path.startswith("/api/"):  # Ollama's
        body = {"error": found.message}
    return JSONResponse(body, found.status, found.headers)


def event(error: BaseException) -> str:
    """The same inside a stream, whose headers are sent."""
    return json.dumps(api_error(error).body)


def install(app: FastAPI) -> None:
    """Have the application answer in this form, also what its framework refuses."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = [
            str(part) for part in first["loc"] if part not in ("body", "query", "path", "form")
        ]
        param = ".".join(place) or None
        said = first["msg"].removeprefix("Value error, ")
        return answer(
            ApiError(400, f"{param or 'the body'}: {said}.", param=param), request.url.path
        )

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # while the body was read
            return answer(error.__cause__, request.url.path)
        if error.status_code == 404:
            message = f"{request.method} {request.url.path} is no route of this server; see /docs."
        else:
            message = f"{error.detail}."
        found = answer(ApiError(error.status_code, message), request.url.path)
        found.headers.update(error.headers or {})
        return found

    async def known(request: Request, error: Exception) -> JSONResponse:
        return answer(error, request.url.path)

    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(DaedalError, known)
