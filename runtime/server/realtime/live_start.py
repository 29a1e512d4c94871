"""The beginning of a Live session: the client says what it wants once it is connected."""

from __future__ import annotations

import asyncio
import json

from starlette.websockets import WebSocket, WebSocketDisconnect

from antiphon.server.errors import ApiError, api_error, error_response
from antiphon.server.json_body import parsed
from antiphon.server.realtime.live_config import read_live_event
from antiphon.server.realtime.live_session import LiveSession
from antiphon.server.realtime.socket import accept, carry, full_error, turn_away
from antiphon.server.realtime.talk import FULL, POLICY
from antiphon.server.realtime.talks import Talks
from antiphon.server.service import Service

__all__ = ["begin_live"]

START_S = 30.0
"""How long a client may take to start its session."""


async def begin_live(service: Service, talks: Talks, websocket: WebSocket) -> None:
    """Serve a connection to `/v1/live/sessions`."""
    try:
        service.check_open()
        if websocket.query_params:
            name = next(iter(websocket.query_params))[:100]
            message = f"{name!a}: this server does not support it"
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    except ApiError as error:
        await websocket.send_denial_response(error_response(error))
        return
    await accept(websocket)
    if not talks.has_room():
        await turn_away(websocket, FULL, full_error())
        return
    try:
        talk = await asyncio.wait_for(_started(service, websocket), START_S)
    except asyncio.TimeoutError:
        late = ApiError(400, "expected session.start, got nothing", code="invalid_value")
        await turn_away(websocket, POLICY, late)
        return
    except WebSocketDisconnect:
        return
    if not talks.has_room():
        await turn_away(websocket, FULL, full_error())
        return
    await talks.add(talk)
    await carry(talks, websocket, talk)


async def _started(service: Service, websocket: WebSocket) -> LiveSession:
    """The session that the client starts; what is wrong with a start is told, and another may follow."""
    while True:
        event_id: str | None = None
        try:
            fields = await parsed((await websocket.receive_text()).encode())
            if not isinstance(fields, dict):
                raise ApiError(400, "the event: expected a JSON object", code="invalid_json")
            given = fields.get("event_id", fields.get("client_event_id"))
            event_id = given[:512] if isinstance(given, str) else None
            event = read_live_event(fields)
            if event.type != "session.start":
                message = "type: expected session.start before all else"
                raise ApiError(400, message, param="type", code="invalid_value")
            return LiveSession(service, event.session, event_id)
        except WebSocketDisconnect:
            raise
        except (ValueError, KeyError) as error:
            wrong = ApiError(400, "the event is not valid JSON", code="invalid_json")
            wrong.__cause__ = error
            await _tell(websocket, wrong, event_id)
        except Exception as error:  # noqa: BLE001 - the client is told
            await _tell(websocket, api_error(error), event_id)


async def _tell(websocket: WebSocket, error: ApiError, event_id: str | None) -> None:
    fields = {**error.body()["error"], "client_event_id": event_id}
    told = {"type": "error", "event_id": "event_0", "client_event_id": event_id, "error": fields}
    await websocket.send_text(json.dumps(told))
