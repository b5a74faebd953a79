"""The HTTP side: OpenAI's paths, a token, limits, figures for Prometheus, and one page to try it on."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from llgbm.errors import first_line
from llgbm.serve.engine import Answer, BusyError, DeadError, Engine, Job
from llgbm.serve.requests import BASE, TASK, Limits, Reader, RefusedError

logger = logging.getLogger(__name__)
Handler = Callable[[Request], Awaitable[Response]]
OPEN_PATHS = ("/", "/healthz")
"""What can be read without the token."""


class Gateway:
    """Handlers over an engine.

    Args:
        engine: Answers.
        reader: Reads requests.
        limits: Of size and time.
        token: What clients have to send as `Authorization: Bearer`; None asks for none.
    """

    def __init__(self, engine: Engine, reader: Reader, limits: Limits, token: str | None = None) -> None:
        self.engine, self.reader, self.limits, self.token = engine, reader, limits, token
        self.registry = CollectorRegistry()
        self.requests = Counter("llgbm_requests", "Requests by path and status.", ["path", "status"], registry=self.registry)
        self.tokens = Counter("llgbm_tokens", "Tokens read and written.", ["kind"], registry=self.registry)
        self.seconds = Histogram("llgbm_answer_seconds", "From a request to its answer.", registry=self.registry)
        for name, text, read in (
            ("llgbm_waiting", "Requests that wait.", lambda: engine.waiting),
            ("llgbm_adapters", "Adapters in memory.", lambda: len(engine.shelf)),
            ("llgbm_adapters_written", "Adapters written since the start.", lambda: engine.shelf.written),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def app(self) -> Starlette:
        """What a server runs."""
        paths: list[tuple[str, str, Handler]] = [
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/completions", "POST", self.completion),
            ("/v1/models", "GET", self.models),
            ("/metrics", "GET", self.metrics),
            ("/healthz", "GET", self.health),
            ("/", "GET", self.page),
        ]
        return Starlette(routes=[Route(path, self._guarded(path, handler), methods=[method]) for path, method, handler in paths])

    async def chat(self, request: Request) -> Response:
        """The next turn of a chat."""
        asked, job = self.reader.chat(await self._json(request))
        answer = await self._answer(job)
        turn = {"index": 0, "finish_reason": _reason(answer)}
        if asked.stream:
            return _streamed(asked.model, {**turn, "delta": {"role": "assistant", "content": answer.text}})
        return _reply("chat.completion", asked.model, {**turn, "message": {"role": "assistant", "content": answer.text}}, answer)

    async def completion(self, request: Request) -> Response:
        """A text continued."""
        asked, job = self.reader.completion(await self._json(request))
        if asked.stream:
            raise RefusedError(400, "stream is for /v1/chat/completions; leave it out here")
        answer = await self._answer(job)
        return _reply("text_completion", asked.model, {"index": 0, "finish_reason": _reason(answer), "text": answer.text}, answer)

    async def models(self, request: Request) -> Response:
        """The base, and the sentences that have an adapter."""
        names = [BASE, *(f"{TASK} {sentence}" for sentence in self.engine.shelf.sentences)]
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "llgbm"} for name in names]})

    async def metrics(self, request: Request) -> Response:
        """Figures in Prometheus' format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(self, request: Request) -> Response:
        """Whether requests are answered; 503 when none will be any more."""
        fault = self.engine.fault
        return JSONResponse({"status": "ok"} if fault is None else {"status": "failed", "reason": fault}, 200 if fault is None else 503)

    async def page(self, request: Request) -> Response:
        """The page to try it on."""
        return HTMLResponse(files("llgbm.serve").joinpath("page.html").read_text())

    def _guarded(self, path: str, handler: Handler) -> Handler:
        """The handler behind the token, its faults as OpenAI's clients read them, and counted."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_token(path, request)
                response = await handler(request)
            except RefusedError as error:
                body = {"error": {"message": str(error), "type": "invalid_request_error", "code": error.status}}
                response = JSONResponse(body, status_code=error.status)
            self.requests.labels(path, str(response.status_code)).inc()
            return response

        return guarded

    def _check_token(self, path: str, request: Request) -> None:
        if self.token is None or path in OPEN_PATHS:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.token.encode()):
            raise RefusedError(401, "the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'")

    async def _json(self, request: Request) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.body_bytes:
                        raise RefusedError(413, f"the request has more than {self.limits.body_bytes} bytes")
            return json.loads(body)
        except TimeoutError as error:
            raise RefusedError(408, f"the request did not arrive within {self.limits.seconds:g} seconds; send it at once") from error
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"the request is no JSON ({str(error)[:80]})") from error
        except ClientDisconnect as error:
            raise RefusedError(400, "the client went away") from error

    async def _answer(self, job: Job) -> Answer:
        start = time.perf_counter()
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(self.engine.submit(job)), self.limits.seconds)
        except BusyError as error:
            raise RefusedError(429, str(error)) from error
        except DeadError as error:
            raise RefusedError(503, str(error)) from error
        except TimeoutError as error:
            raise RefusedError(504, f"no answer within {self.limits.seconds:g} seconds; try again later") from error
        except Exception as error:  # of the engine, which goes on
            logger.exception("a request failed")
            raise RefusedError(500, f"the answer failed ({first_line(error)})") from error
        self.seconds.observe(time.perf_counter() - start)
        self.tokens.labels("read").inc(answer.prompt_tokens)
        self.tokens.labels("written").inc(answer.new_tokens)
        return answer


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


def _reply(kind: str, model: str, choice: dict[str, Any], answer: Answer) -> Response:
    usage = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
    }
    return JSONResponse({**_head(kind, model), "choices": [choice], "usage": usage})


def _streamed(model: str, choice: dict[str, Any]) -> Response:
    """The whole answer as one event, for clients that only read events."""
    event = json.dumps({**_head("chat.completion.chunk", model), "choices": [choice]})
    return Response(f"data: {event}\n\ndata: [DONE]\n\n", media_type="text/event-stream")


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"llgbm-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
