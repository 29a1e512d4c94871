"""How the embedded model is made: its world (`world`), the checkpoint (`omni`) and its codec (`speech`)."""

from antiphon.process.footprint import use_passing_caches

# Before any module here imports onnxruntime, whose telemetry `antiphon` has switched off, or matplotlib.
use_passing_caches()
