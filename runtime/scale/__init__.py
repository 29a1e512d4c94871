"""Many engines behind one address, by Ray Serve. Importing it neither imports nor starts Ray."""

from antiphon.scale.deployment import application, deployment
from antiphon.scale.settings import ScaleSettings
from antiphon.server.settings import ServerSettings

__all__ = ["ScaleSettings", "ServerSettings", "application", "deployment"]
