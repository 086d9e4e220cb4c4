"""Slipway: raw events to an autoscaled ONNX endpoint, with every step proved on the way."""

__version__ = "0.1.0"
