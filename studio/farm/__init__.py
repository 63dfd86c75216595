"""The farm: rows of this studio's job table made on other machines, over TLS of its own.

`host` leases rows and takes in what is made, `machine` is the other side, `certificates` says who
may come in, `link` is Dask, `register` what the farm remembers. Only `link` and what
imports it need the extra `farm`. Imports `library`, `jobs`, `media` and `system`.
"""
