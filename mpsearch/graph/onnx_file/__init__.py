"""ONNX files: read whole or mapped, ordered, digested, their axes bound, written again."""
