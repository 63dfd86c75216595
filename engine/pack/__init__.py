"""Open and verify a pack: a folder, or one .zip of it, with `pack.json` beside the files it names.

Opening checks the manifest (`manifest`), the graphs' contracts (`contract`) and that every file is
there with its size (`archive`); a file's SHA-256 is checked before its first use (`opened`). What
a graph really looks like is compared with the manifest where it is loaded (`engine.session`).
"""

from engine.pack.contract import CONTRACT, PARTS
from engine.pack.graphs import Component, Context, Graph, PackFile, TensorSpec, TokenizerFile
from engine.pack.manifest import FORMAT
from engine.pack.opened import REQUIRED, Pack, open_pack
from engine.pack.values import MANIFEST

__all__ = [
    "CONTRACT",
    "FORMAT",
    "MANIFEST",
    "PARTS",
    "REQUIRED",
    "Component",
    "Context",
    "Graph",
    "Pack",
    "PackFile",
    "TensorSpec",
    "TokenizerFile",
    "open_pack",
]
