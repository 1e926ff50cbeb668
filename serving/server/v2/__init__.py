"""The Open Inference Protocol (KServe's V2) over REST and gRPC.

`tensors.py` converts the data and `service.py` makes the calls, for the two transports `rest.py`
and `grpc_service.py`.
"""
