"""Networks of the codec as ONNX files, and their verification against PyTorch. The runtime imports none of
this; it reads the files (`antiphon.codec.exported`)."""
