"""Responses to requests for answers: whole or as server-sent events, ended when nobody listens."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgekit_runtime.serving.answers import Choice, Reply, usage_of
from edgekit_runtime.serving.errors import ApiError
from edgekit_runtime.serving.jobs import TokenLogProb
from edgekit_runtime.serving.requests import Asked
from edgekit_runtime.serving.service import Service
from edgekit_runtime.serving.tools import ToolScanner

_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would gather the pieces
)


def dumps(value: Any) -> bytes:
    """JSON as UTF-8; half a surrogate pair, which is no text, stays an escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


class JsonResponse(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content)


def error_response(error: ApiError) -> JsonResponse:
    """An error as OpenAI shows it."""
    return JsonResponse(error.to_dict(), status_code=error.status, headers=error.headers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Something that happened to a choice: it opened, has some text, or ended."""

    choice: Choice
    text: str
    log_probs: list[TokenLogProb]
    is_open: bool = False
    is_end: bool = False


class AnswerResponse:
    """Answers a request; an ASGI application for this one request.

    Args:
        service: Who answers.
        asked: The request.
        user: Whose turn it is.
        arrived: The loop's time when it came.
    """

    def __init__(self, service: Service, asked: Asked, *, user: str, arrived: float) -> None:
        self._service = service
        self._asked = asked
        self._user = user
        self._arrived = arrived
        self._reply = Reply(asked, service.models.fingerprint)
        self._done: list[dict[str, Any]] = []
        self._is_started = False
        self._has_text = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond, unless the client goes away first."""
        work = asyncio.create_task(self._respond(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._service.metrics.n_cancelled += 1
        finally:
            for task in (gone, work):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 200
        try:
            async with self._service.limited(self._arrived):
                if self._asked.stream:
                    await self._stream(send)
                else:
                    answer = JsonResponse(await self._whole())
                    await answer(scope, receive, send)
        except ApiError as err:
            status = err.status
            if self._is_started:
                await self._send_error(send, err)
            else:
                await error_response(err)(scope, receive, send)
        self._count(status)

    async def _whole(self) -> dict[str, Any]:
        choices = []
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                part.choice.text.append(part.text)
                part.choice.log_probs.extend(part.log_probs)
                if part.is_end:
                    choices.append(part.choice)
        return self._reply.whole(choices, self._usage())

    async def _stream(self, send: Send) -> None:
        reply, is_chat = self._reply, self._asked.kind == "chat"
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                if part.is_open:
                    await self._start(send)
                    if is_chat:
                        await self._send(send, reply.first(part.choice.index))
                    continue
                choice = part.choice
                choice.log_probs.extend(part.log_probs)
                if part.text:
                    await self._send(send, reply.piece(choice, part.text))
                if part.is_end:
                    await self._send(send, reply.last(choice))
        if self._asked.include_usage:
            await self._send(send, reply.usage(self._usage()))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _parts(self) -> AsyncGenerator[_Part, None]:
        """What happens to the choices, one choice after the other."""
        for index, job in enumerate(self._asked.jobs):
            choice = Choice(index=index)
            use = self._asked.tools
            scanner = None if use is None else ToolScanner(use.form, forced=use.forced)
            events = self._service.run(job, self._user, is_admitted=index > 0)
            async with aclosing(events) as told:
                async for event in told:
                    found = [TokenLogProb.from_list(one) for one in event.get("log_probs", ())]
                    if event["event"] == "started":
                        models = self._service.models
                        self._reply.name_model(models.full_name(event["adapter"]))
                        yield _Part(choice=choice, text="", log_probs=[], is_open=True)
                    elif event["event"] == "piece":
                        self._note_text()
                        text = scanner.push(event["text"]) if scanner else event["text"]
                        yield _Part(choice=choice, text=text, log_probs=found)
                    else:
                        text = self._end(choice, scanner, event)
                        yield _Part(choice=choice, text=text, log_probs=found, is_end=True)

    def _end(self, choice: Choice, scanner: ToolScanner | None, done: dict[str, Any]) -> str:
        """Note how a choice ended; return the text that was held back."""
        self._done.append(done)
        self._service.metrics.count_tokens(self._asked.model, done["usage"])
        text = ""
        if scanner is not None:
            text, calls = scanner.finish()
            one = self._asked.tools is not None and self._asked.tools.one
            choice.calls = calls[:1] if one else calls
        choice.end(done["finish_reason"])
        return text

    def _note_text(self) -> None:
        if not self._has_text:
            self._has_text = True
            self._service.metrics.ttft.add(self._elapsed_s())

    def _usage(self) -> dict[str, Any]:
        return usage_of(self._done, self._asked.n)

    async def _start(self, send: Send) -> None:
        if not self._is_started:
            self._is_started = True
            headers = list(_STREAM_HEADERS)
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send(self, send: Send, value: Mapping[str, Any]) -> None:
        body = b"data: " + dumps(value) + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})
        # Where many pieces are ready, let it be noticed that the client has gone.
        await asyncio.sleep(0)

    async def _send_error(self, send: Send, error: ApiError) -> None:
        """End a stream by an error; one that nobody reads is closed without."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._service.settings.read_timeout_s):
                await self._send(send, error.to_dict())
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _count(self, status: int) -> None:
        metrics = self._service.metrics
        metrics.count_request(self._asked.kind, self._asked.model, status)
        metrics.durations.add(self._elapsed_s())

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self._arrived


async def _until_gone(receive: Receive) -> None:
    """Wait until the client has gone; its body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
