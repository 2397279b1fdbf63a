"""A web service of your own around an engine: FastAPI, answers as JSON and as a stream.

    pip install edgekit-runtime fastapi uvicorn
    EDGEKIT_BUNDLE=my-bundle uvicorn fastapi_app:app

The engine lives as long as the app. A client that goes away cancels its answer. For OpenAI's
protocol there is `edgekit serve`, which also keeps the model in a process of its own.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from edgekit_runtime import AdapterError, Bundle, Engine, GenerationError, GenerationStream


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the bundle once."""
    with Bundle.open(os.environ["EDGEKIT_BUNDLE"]) as bundle, bundle.engine() as engine:
        app.state.engine = engine
        yield


app = FastAPI(lifespan=lifespan)


def opened(request: Request) -> Engine:
    """The engine that `lifespan` started."""
    engine: Engine = request.app.state.engine
    return engine


OpenedEngine = Annotated[Engine, Depends(opened)]


class Asked(BaseModel):
    """What a client sends."""

    text: str
    adapter: str | None = None
    max_new_tokens: int = 128


class Answered(BaseModel):
    """What it gets."""

    text: str
    finish_reason: str
    completion_tokens: int


def start(engine: Engine, asked: Asked) -> GenerationStream:
    """Check a request; the work begins when the stream is read."""
    message = {"role": "user", "content": asked.text}
    try:
        return engine.stream(
            messages=[message], adapter=asked.adapter, max_new_tokens=asked.max_new_tokens
        )
    except (AdapterError, GenerationError) as err:
        raise HTTPException(422, str(err)) from err


@app.post("/answer")
async def answer(asked: Asked, engine: OpenedEngine) -> Answered:
    """The whole answer at once."""
    found = await start(engine, asked).afinish()
    return Answered(
        text=found.text,
        finish_reason=found.finish_reason,
        completion_tokens=found.usage.completion_tokens,
    )


@app.post("/stream")
async def stream(asked: Asked, engine: OpenedEngine) -> StreamingResponse:
    """The answer as it comes."""

    async def pieces(answer: GenerationStream) -> AsyncIterator[str]:
        async with answer:
            async for piece in answer:
                yield piece

    return StreamingResponse(pieces(start(engine, asked)), media_type="text/plain")
