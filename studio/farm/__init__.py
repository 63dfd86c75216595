"""The farm: rows of this studio's job table made on other machines, over TLS of its own.

`host` is the process, in which `dispatch` leases rows and `desk` receives results; `machine` is the
other side, `certificates` says who may join, `link` wraps Dask, `register` stores what the farm
must remember. Only `link` and what imports it need the extra `farm`. Imports `library`, `jobs`,
`media` and `system`.
"""
