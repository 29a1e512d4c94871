"""Engines of TensorRT from exported ONNX files: ranges are measured, a process of its own builds, a manifest
says what came of it. The runtime opens them (`antiphon.codec.tensorrt`)."""
