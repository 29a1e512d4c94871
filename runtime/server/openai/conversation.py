"""Messages on their way to the engine, and where the client had them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.errors import InvalidRequest
from antiphon.server.errors import ApiError
from antiphon.server.media import fetch
from antiphon.server.service import Service
from antiphon.types import Image, Message, Part

__all__ = ["Conversation", "read_image", "wrong"]

PLACE = re.compile(r"^messages\[(\d+)\](\.content)?")


class Conversation:
    """The engine's messages, with each one's place in the client's request.

    Clients send several system messages, or instructions and a system message; the engine takes one.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._places: list[str] = []

    def add(self, place: str, role: str, content: str | list[Part]) -> None:
        """place: such as `messages[1]`, whose content is given."""
        self.messages.append(Message(role, content))
        self._places.append(place)

    def add_system(self, place: str, role: str, text: str) -> None:
        """Join a system message to those before it; ApiError if other messages came before it.

        role: the client's name for it.
        """
        if any(message.role != "system" for message in self.messages):
            raise wrong(f"{place}.role", f"a {role} message can only come before all others")
        if self.messages:
            self.messages[0] = Message("system", f"{self.messages[0].content}\n\n{text}")
        else:
            self.add(place, "system", text)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have the engine's errors name messages as the client has them."""
        try:
            yield
        except InvalidRequest as error:
            raise InvalidRequest(PLACE.sub(self._named, str(error))) from error

    def _named(self, found: re.Match[str]) -> str:
        index = int(found[1])
        if index >= len(self._places):
            return found[0]
        place = self._places[index]
        return place + (found[2] or "") if place.endswith("]") else place


async def read_image(service: Service, url: str, place: str) -> Image:
    """A picture by its URL. Anything but a data: URL is fetched, or refused: paths are not read."""
    if url[:5].lower() == "data:":
        return Image(url)
    max_bytes = service.engine.engine.config.limits.max_image_bytes
    return Image(await fetch(url, service.settings.allowed_media_domains, max_bytes, place))


def wrong(place: str, message: str) -> ApiError:
    """A field that has a value which it must not have."""
    return ApiError(400, f"{place}: {message}", param=place, code="invalid_value")
