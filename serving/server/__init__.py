"""The embedded server: TF Serving's REST and gRPC API for laptops, tests and CI.

`serving.server.app.serve` runs it in this process,
`serving.server.lifecycle.server_process.ServerProcess` in a child process, and
`python -m serving.server` from a shell.
"""
