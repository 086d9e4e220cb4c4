"""Clients of the Open Inference Protocol: NumPy in, NumPy out. NumPy and msgspec are all that REST needs.

`GrpcClient` and `AsyncGrpcClient` live in serving.client.grpc, which needs grpcio.
"""

from serving.client.answer import Answer, Receipt
from serving.client.calls import ModelMetadata, ModelState, TensorMetadata
from serving.client.rest import AsyncClient, Client
from serving.client.retry import Retry

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ModelMetadata",
    "ModelState",
    "Receipt",
    "Retry",
    "TensorMetadata",
]
