"""The Neodragon engine: a prompt and two seeds in, the frames of a clip out."""
