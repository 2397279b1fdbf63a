"""The HTTP surface: OpenAI's endpoints, vLLM's for adapters, health and metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edgekit_runtime.serving import metrics, openapi, page
from edgekit_runtime.serving.bodies import check_fields, read_json
from edgekit_runtime.serving.errors import ApiError, bad_request
from edgekit_runtime.serving.guard import Guard, read_body
from edgekit_runtime.serving.models import path_within
from edgekit_runtime.serving.requests import Asked, read_chat, read_completion
from edgekit_runtime.serving.responding import AnswerResponse, JsonResponse, error_response
from edgekit_runtime.serving.service import Service

Handler = Callable[[Service, Request], Awaitable[Response | ASGIApp]]


def make_app(service: Service) -> Starlette:
    """The ASGI application over a service that is open."""

    def route(path: str, handler: Handler, method: str) -> Route:
        async def endpoint(request: Request) -> Response | ASGIApp:
            return await handler(service, request)

        return Route(path, endpoint, methods=[method])

    return Starlette(
        routes=[
            *(route(path, _page, "GET") for path in sorted(page.PATHS)),
            route("/health", _health, "GET"),
            route("/metrics", _metrics, "GET"),
            route("/openapi.json", _openapi, "GET"),
            route("/v1/models", _models, "GET"),
            route("/v1/models/{model:path}", _model, "GET"),
            route("/v1/chat/completions", _chat, "POST"),
            route("/v1/completions", _completions, "POST"),
            route("/v1/load_lora_adapter", _load, "POST"),
            route("/v1/unload_lora_adapter", _unload, "POST"),
        ],
        middleware=[Middleware(Guard, settings=service.settings)],
        exception_handlers={
            ApiError: _refuse,
            ClientDisconnect: _ignore,
            HTTPException: _refuse_http,
            500: _fail,
        },
    )


async def _chat(service: Service, request: Request) -> ASGIApp:
    return await _answer(service, request, "chat")


async def _completions(service: Service, request: Request) -> ASGIApp:
    return await _answer(service, request, "completion")


async def _answer(service: Service, request: Request, kind: Any) -> ASGIApp:
    arrived = asyncio.get_running_loop().time()
    model = ""
    try:
        body = check_fields(await _body(service, request), kind)
        model = service.models.describe(body["model"])["id"]
        asked = _read(service, kind, body, model)
    except ApiError as err:
        service.metrics.count_request(kind, model, err.status)
        raise
    client = request.client.host if request.client else ""
    user = client if asked.user is None else f"user {asked.user}"
    return AnswerResponse(service, asked, user=user, arrived=arrived)


def _read(service: Service, kind: Any, body: dict[str, Any], model: str) -> Asked:
    models = service.models
    adapter, is_auto = models.adapter_of(model), models.is_auto(model)
    if kind == "chat":
        form = models.tool_format
        return read_chat(body, model=model, adapter=adapter, form=form, is_routed=is_auto)
    if is_auto:
        problem = f"model: {model!r} goes by what a user says, and a prompt may hold anything"
        hint = "Ask for a chat completion, or name the adapter."
        raise bad_request("no adapter can be picked for a completion", [problem], hint=hint)
    return read_completion(body, model=model, adapter=adapter)


async def _models(service: Service, request: Request) -> Response:
    models = service.models
    data = [models.describe(name) for name in models.names()]
    return JsonResponse({"object": "list", "data": data})


async def _model(service: Service, request: Request) -> Response:
    return JsonResponse(service.models.describe(request.path_params["model"]))


async def _load(service: Service, request: Request) -> Response:
    folder = service.settings.adapters_from
    if folder is None:
        raise _no_loading()
    name, path = _texts(await _body(service, request), "lora_name", "lora_path")
    service.models.check_new(name)
    found = path_within(path, folder)
    told = await service.supervisor.load(name, str(found))
    service.models.add(name, is_single_turn=told["is_single_turn"])
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def _unload(service: Service, request: Request) -> Response:
    if service.settings.adapters_from is None:
        raise _no_loading()
    (name,) = _texts(await _body(service, request), "lora_name")
    service.models.check_guest(name)
    await service.supervisor.unload(name)
    service.models.remove(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _health(service: Service, request: Request) -> Response:
    is_up = service.supervisor.is_ready
    status = {"status": "ok" if is_up else "starting"}
    return JsonResponse(status, status_code=200 if is_up else 503)


async def _metrics(service: Service, request: Request) -> Response:
    text = service.metrics.text(service.gauges())
    return Response(text, media_type=metrics.CONTENT_TYPE)


async def _openapi(service: Service, request: Request) -> Response:
    return JsonResponse(openapi.description(has_key=service.settings.api_key is not None))


async def _page(service: Service, request: Request) -> Response:
    return page.page(request)


async def _body(service: Service, request: Request) -> dict[str, Any]:
    settings = service.settings
    data = await read_body(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.read_timeout_s
    )
    return read_json(data)


def _texts(body: dict[str, Any], *names: str) -> list[str]:
    wrong = [f"{name}: expected text" for name in names if not isinstance(body.get(name), str)]
    if wrong:
        raise bad_request("the request is malformed", wrong)
    return [body[name] for name in names]


def _no_loading() -> ApiError:
    message = "adapters are not loaded here; start the server with --allow-adapters-from"
    return ApiError(403, message, code="forbidden")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _ignore(request: Request, error: Exception) -> Response:
    """The client went away before its request was there."""
    return Response()


async def _refuse_http(request: Request, error: Exception) -> Response:
    """What starlette itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return error_response(
        ApiError(error.status_code, message, code="not_found", headers=error.headers)
    )


async def _fail(request: Request, error: Exception) -> Response:
    """A bug: its trace goes to the log, and nothing of it to the client."""
    return error_response(ApiError(500, "the server failed", code="internal_error"))
