"""The standard mark of a picture made by a trained algorithm, in the files that carry one.

IPTC's *digital source type* `trainedAlgorithmicMedia` in an XMP packet, where each format has its
place for it (XMP specification, part 3). It says nothing of the prompt or of the user.
"""

from __future__ import annotations

import struct
from pathlib import Path

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE}" xmp:CreatorTool="Neodragon Studio"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>""".encode()
PNG_KEYWORD = "XML:com.adobe.xmp"
UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # of XMP in MP4 and QuickTime files
GIF_END = bytes([1, *range(255, -1, -1), 0])  # a reader of sub-blocks gets out here


def mark(path: Path, format: str) -> None:
    """Put the packet into a finished mp4, mov, webp or gif; other formats stay as they are.

    Raises OSError.
    """
    with path.open("r+b") as file:
        file.seek(0, 2)
        if format in ("mp4", "mov"):
            file.write(struct.pack(">I4s", 24 + len(PACKET), b"uuid") + UUID + PACKET)
        elif format == "webp":
            file.write(struct.pack("<4sI", b"XMP ", len(PACKET)) + PACKET + bytes(len(PACKET) % 2))
            size = file.tell() - 8
            file.seek(4)
            file.write(struct.pack("<I", size))
            file.seek(20)  # the flags of VP8X, which every animation has
            flags = file.read(1)[0]
            file.seek(20)
            file.write(bytes([flags | 4]))
        elif format == "gif":
            file.seek(-1, 2)  # the trailer
            file.write(b"\x21\xff\x0bXMP DataXMP" + PACKET + GIF_END + b";")
