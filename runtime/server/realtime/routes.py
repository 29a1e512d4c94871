"""`/v1/realtime` and `/v1/live/sessions`: talking over WebSockets, and the keys for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.websockets import WebSocket

from antiphon.errors import InvalidRequest
from antiphon.server.errors import ApiError, api_error, error_response
from antiphon.server.openai.schemas import ERRORS, Strict
from antiphon.server.realtime.client_secrets import Secret
from antiphon.server.realtime.dialects import Beta, Dialect, beta_error, beta_session, general_session
from antiphon.server.realtime.live_start import begin_live
from antiphon.server.realtime.realtime_session import RealtimeSession
from antiphon.server.realtime.session_config import (
    SessionConfig,
    TranscriptionConfig,
    conversation_settings,
    default_config,
    merged,
    session_json,
    session_object,
)
from antiphon.server.realtime.socket import NOT_FOUND, accept, carry, full_error, turn_away
from antiphon.server.realtime.talk import FULL, Talk
from antiphon.server.realtime.talks import Talks
from antiphon.server.service import Service

__all__ = ["realtime"]

QUERY = ("model", "intent", "antiphon", "resume", "after", "call_id")
BETA_PROTOCOL = "openai-beta.realtime-v1"
"""How browsers, which send no headers, ask for the beta."""


class ExpiresAfter(Strict):
    """How long a key lives."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class ClientSecretRequest(Strict):
    """What a key is to open."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = None
    """The session that it opens; see the events of `/v1/realtime`."""


class ClientSecret(BaseModel):
    """A key that lives for minutes."""

    value: str
    expires_at: int
    session: dict[str, Any]


class BetaSecretOptions(Strict):
    """How long the beta's key lives: `expires_at` is the name for it in transcription sessions."""

    expires_after: ExpiresAfter | None = None
    expires_at: ExpiresAfter | None = None


class BetaSessionRequest(BaseModel):
    """The session that a key of the beta is to open: its fields, beside `client_secret`."""

    model_config = ConfigDict(extra="allow")

    client_secret: BetaSecretOptions | None = None


class BetaSecret(BaseModel):
    """A key that lives for minutes."""

    value: str
    expires_at: int


class BetaSession(BaseModel):
    """A session of the beta, and the key that opens it."""

    model_config = ConfigDict(extra="allow")

    object: str
    client_secret: BetaSecret


def realtime(service: Service, talks: Talks) -> APIRouter:
    """The WebSockets `/v1/realtime` and `/v1/live/sessions`, and the routes that make keys for the first."""
    router = APIRouter(tags=["realtime"])

    @router.post("/v1/realtime/client_secrets", responses=ERRORS)
    async def client_secrets(body: ClientSecretRequest) -> ClientSecret:
        """A short-lived key, for a page that must not know the server's own."""
        given = body.session or {}
        config = merged(default_config(service, _kind(given)), given)
        conversation_settings(service, config)
        secret = talks.secrets.make(config, (body.expires_after or ExpiresAfter()).seconds)
        told = {**session_json(service, config), "object": session_object(config)}
        return ClientSecret(value=secret.value, expires_at=secret.expires_s, session=told)

    @router.post("/v1/realtime/sessions", responses=ERRORS)
    async def sessions(body: BetaSessionRequest) -> BetaSession:
        """A short-lived key, as in the beta of the Realtime API."""
        return _beta_key(service, talks, body, "realtime")

    @router.post("/v1/realtime/transcription_sessions", responses=ERRORS)
    async def transcription_sessions(body: BetaSessionRequest) -> BetaSession:
        """A short-lived key for a session that only writes down, as in the beta of the Realtime API."""
        return _beta_key(service, talks, body, "transcription")

    @router.websocket("/v1/realtime")
    async def talk(websocket: WebSocket) -> None:
        token = websocket.query_params.get("resume")
        if token is not None:
            await _come_back(talks, websocket, token)
        else:
            await _begin(service, talks, websocket)

    @router.websocket("/v1/live/sessions")
    async def live(websocket: WebSocket) -> None:
        await begin_live(service, talks, websocket)

    return router


async def _begin(service: Service, talks: Talks, websocket: WebSocket) -> None:
    try:
        service.check_open()
        if not talks.has_room():
            await accept(websocket)
            await turn_away(websocket, FULL, full_error())
            return
        config = _config(service, websocket)
        talk: Talk = RealtimeSession(service, config, _dialect(websocket, config))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told before the socket is accepted
        await websocket.send_denial_response(error_response(api_error(error)))
        return
    await talks.add(talk)
    try:
        await accept(websocket)
    except BaseException:  # its client has gone
        await talks.remove(talk)
        raise
    await carry(talks, websocket, talk)


async def _come_back(talks: Talks, websocket: WebSocket, token: str) -> None:
    await accept(websocket)
    talk, after = talks.find(token), websocket.query_params.get("after", "-1")
    if talk is None:
        error = ApiError(404, "there is no such session to come back to", code="session_not_found")
        await turn_away(websocket, NOT_FOUND, error)
        return
    number = int(after) if len(after) < 16 and after.removeprefix("-").isdecimal() else -2
    await carry(talks, websocket, talk, number)


def _beta_key(
    service: Service, talks: Talks, body: BetaSessionRequest, kind: Literal["realtime", "transcription"]
) -> BetaSession:
    """kind: type of the session."""
    try:
        config = merged(default_config(service, kind), general_session(body.model_extra or {}, "session"))
        conversation_settings(service, config)
    except (ApiError, InvalidRequest) as error:
        raise _flat(api_error(error)) from error
    options = body.client_secret or BetaSecretOptions()
    lives = options.expires_after or options.expires_at or ExpiresAfter()
    secret = talks.secrets.make(config, lives.seconds)
    told = beta_session(session_json(service, config))
    key = BetaSecret(value=secret.value, expires_at=secret.expires_s)
    return BetaSession(**told, object=session_object(config), client_secret=key)


def _flat(error: ApiError) -> ApiError:
    """An error in a session that is a body of the beta: its fields stand below nothing."""
    told = beta_error(error.body()["error"])
    param, message = told["param"], told["message"]
    if param is not None and param.startswith("session."):
        name = param.removeprefix("session.")
        param, message = name, message.replace(param, name)
    return ApiError(error.status, message, kind=error.kind, param=param, code=error.code)


def _dialect(websocket: WebSocket, config: SessionConfig) -> Dialect:
    asked = websocket.headers.get("openai-beta", "")
    if "realtime=v1" in asked or BETA_PROTOCOL in websocket.scope.get("subprotocols", []):
        return Beta(is_transcription=isinstance(config, TranscriptionConfig))
    return Dialect()


def _config(service: Service, websocket: WebSocket) -> SessionConfig:
    """What the session begins with. ApiError for a query that cannot be served."""
    query = websocket.query_params
    for name in query:
        if name not in QUERY or name == "call_id":
            message = f"{name[:100]!a}: this server does not support it"
            raise ApiError(400, message, param=name[:100], code="unsupported_parameter")
    intent = query.get("intent", "conversation")
    if intent not in ("conversation", "transcription"):
        message = f"intent: expected 'conversation' or 'transcription', got {intent[:100]!a}"
        raise ApiError(400, message, param="intent", code="invalid_value")
    service.check_model(query.get("model"))
    secret: Secret | None = websocket.scope["state"].get("secret")
    if secret is not None:
        config = secret.config
    else:
        config = default_config(service, "transcription" if intent == "transcription" else "realtime")
    if query.get("antiphon") == "1":
        config = config.model_copy(update={"antiphon_events": True})
    conversation_settings(service, config)
    return config


def _kind(session: dict[str, Any]) -> str:
    return "transcription" if session.get("type") == "transcription" else "realtime"
