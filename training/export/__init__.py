"""Export a checkpoint to a pack: `python -m training.export CHECKPOINT -o PACK`.

The checkpoint is a folder of the published folders. What those do not say is in `neodragon.json` at
its root, a partial `pack.json` that is laid over the published values. Every graph is compared with
its torch module; the export fails below FLOOR_DB (or, for an NPU graph in emulation against the
portable one, below HTP_FLOOR_DB). A graph whose weights, settings and exporter have not changed is
kept. It knows nothing of training.
"""
