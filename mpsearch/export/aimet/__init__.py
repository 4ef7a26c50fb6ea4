"""An ONNX model with AIMET's encodings, which Qualcomm's converters read."""
