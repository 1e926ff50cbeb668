"""The Open Inference Protocol (KServe's V2), REST and gRPC, over the same models.

`tensors.py` is the data, `service.py` the calls, `rest.py` and `grpc_service.py` the two forms.
"""
