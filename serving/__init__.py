"""The ONNX runtime, its client, and the specifications by which a cluster serves."""

import slipway as _slipway  # noqa: F401  (sets what must stand before ONNX Runtime is imported)
