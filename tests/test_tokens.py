"""What the transformer reads: order, positions, rotary tables, mask, static padding."""

import numpy as np
import pytest

from engine.config import TransformerConfig
from engine.tokens import (
    attention_mask,
    patchify,
    position_table,
    positions,
    rope,
    temporal_ids,
    transformer_inputs,
    unpatchify,
)

CONFIG = TransformerConfig(width=24, head_dim=8, patch_size=2, pos_embed_max_size=12, sample_size=8)


def latent(frames: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(frames + height)
    return rng.standard_normal((3, frames, height, width)).astype(np.float32)


def test_patchify_is_the_order_of_a_flattened_convolution() -> None:
    values = latent(2, 4, 6)
    patches = patchify(values, 2)
    assert patches.shape == (2 * 2 * 3, 3 * 2 * 2)
    np.testing.assert_array_equal(patches[1 * 6 + 1 * 3 + 2], values[:, 1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, (3, 2, 4, 6)), values)
    with pytest.raises(ValueError, match="patch size"):
        patchify(latent(1, 3, 4), 2)


def test_position_table_is_sincos_of_columns_then_rows() -> None:
    table = position_table(CONFIG).reshape(12, 12, 24)
    scale = 12 / (CONFIG.sample_size / CONFIG.patch_size)
    for row, column in ((0, 0), (3, 7), (11, 2)):
        for half, place in ((0, column), (1, row)):
            angles = place / scale / 10000 ** (np.arange(6) / 6)
            expected = np.concatenate([np.sin(angles), np.cos(angles)])
            got = table[row, column, 12 * half : 12 * half + 12]
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_positions_are_the_centre_of_the_table() -> None:
    table = position_table(CONFIG).reshape(12, 12, 24)
    got = positions((4, 8), (4, 8), CONFIG).reshape(4, 8, 24)
    np.testing.assert_array_equal(got, table[4:8, 2:10])
    with pytest.raises(ValueError, match="exceeds"):
        positions((14, 4), (14, 4), CONFIG)


def test_coarser_positions_are_resized_bilinearly() -> None:
    full = positions((4, 8), (4, 8), CONFIG).reshape(4, 8, 24)
    half = positions((4, 8), (2, 4), CONFIG).reshape(2, 4, 24)
    np.testing.assert_allclose(half, full.reshape(2, 2, 4, 2, 24).mean((1, 3)), atol=1e-6)
    quarter = positions((4, 8), (1, 2), CONFIG).reshape(1, 2, 24)
    middle = full[1:3].mean(0, keepdims=True)
    expected = np.stack([middle[:, 1:3].mean(1), middle[:, 5:7].mean(1)], 1)
    np.testing.assert_allclose(quarter, expected, atol=1e-6)


def test_temporal_ids_and_rope() -> None:
    ids = temporal_ids([(3, 2, 2, 4), (3, 1, 4, 8)], 2)
    assert ids.tolist() == [0, 0, 1, 1] + [2] * 8
    cosines, sines = rope(ids, 8)
    angles = ids[:, None] / 10000 ** (np.arange(4) / 4)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-6)


def test_mask_keeps_time_and_padding_apart() -> None:
    # Padded text, real text, an old token, a new token.
    mask = attention_mask(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]))
    visible = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    np.testing.assert_array_equal(mask == 0, np.array(visible, bool))
    assert set(np.unique(mask)) == {-100.0, 0.0}


def test_inputs_of_a_sequence() -> None:
    history = [latent(2, 4, 8), latent(1, 8, 16)]
    current = latent(1, 8, 16)
    inputs = transformer_inputs(history, current, np.array([1, 1, 0]), CONFIG)
    image = 2 * 8 + 32 + 32
    assert inputs.patches.shape == (image, 12)
    assert inputs.positions.shape == (image, 24)
    assert inputs.rope_cos.shape == inputs.rope_sin.shape == (3 + image, 4)
    assert inputs.mask.shape == (3 + image, 3 + image)
    np.testing.assert_array_equal(inputs.current_latent(inputs.patches), current)


def test_static_padding_leaves_real_tokens_as_they_are() -> None:
    history, current = [latent(2, 4, 8)], latent(1, 8, 16)
    text = np.array([1, 0])
    plain = transformer_inputs(history, current, text, CONFIG)
    padded = transformer_inputs(history, current, text, CONFIG, history_tokens=21)
    real = np.r_[0:2, 7 : 2 + 21 + 32]
    for name in ("patches", "positions"):
        np.testing.assert_array_equal(getattr(padded, name)[5:], getattr(plain, name))
    for name in ("rope_cos", "rope_sin"):
        np.testing.assert_array_equal(getattr(padded, name)[real], getattr(plain, name))
    np.testing.assert_array_equal(padded.mask[np.ix_(real, real)], plain.mask)
    real_queries = np.setdiff1d(real, [1])  # token 1 is padded text
    assert (padded.mask[real_queries][:, 2:7] == -100).all()
    with pytest.raises(ValueError, match="exceed"):
        transformer_inputs(history, current, text, CONFIG, history_tokens=15)
