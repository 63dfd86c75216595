"""The paper's distillations: text encoder, decoder, blocks, steps, first frame."""
