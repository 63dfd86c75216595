"""Files of pictures and video, and the settings that lie in or beside them.

Reads and writes pixels, MP4 and PNG metadata, sidecars, thumbnails. Imports `system`.
"""
