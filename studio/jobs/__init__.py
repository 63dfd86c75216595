"""The queue: what a job makes, the database it waits in, the worker process that makes it.

`spec` says what a job is, `table` arranges jobs, `worker` renders them, `supervisor` keeps a worker
running. Imports `media` and `system`.
"""
