"""What a training sees: the drawn worlds, their captions, tokenizers."""
