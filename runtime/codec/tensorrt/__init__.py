"""Engines that `antiphon export` built with TensorRT: what they are for, and how they are opened and run.
Importing this imports no TensorRT."""
