"""Speech of the tiny model: voices to hear and to speak with, units, and the way back to sound."""

from antiphon.process.footprint import use_passing_caches

# Before any module here imports onnxruntime, whose telemetry `antiphon` has switched off, or matplotlib.
use_passing_caches()
