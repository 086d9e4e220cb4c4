"""gRPC over the HTTP/2 front: the Open Inference Protocol, health and reflection."""
