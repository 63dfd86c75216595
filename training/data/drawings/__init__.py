"""The drawings of the emoji theatre, one sheet a style (`training.data.draw` makes them)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
STYLES = ("fluent", "noto")  # the second is never trained on
CELL = 128  # pixels
COLUMNS = 12
# The packages' names, the world's subjects in its order: the first 24, 48 or all are learned.
NAMES = """
fox cat elephant rabbit dragon unicorn t-rex owl
penguin turtle snail butterfly tropical-fish sailboat rocket automobile
house mushroom cactus deciduous-tree robot balloon snowman-without-snow lion
dog bear panda frog octopus spouting-whale crab honeybee
lady-beetle duck horse pig tiger monkey sunflower tulip
red-apple strawberry birthday-cake helicopter locomotive castle umbrella teddy-bear
chicken cow ewe mouse hedgehog koala giraffe zebra
kangaroo crocodile snake shark dolphin seal flamingo swan
parrot peacock eagle bat wolf deer camel chipmunk
ant spider scorpion jellyfish lobster palm-tree evergreen-tree christmas-tree
rose maple-leaf banana pineapple watermelon lemon grapes cherries
carrot broccoli jack-o-lantern hamburger pizza ice-cream doughnut cupcake
lollipop teapot guitar trumpet drum bell key crown
kite soccer-ball bicycle bus tractor airplane flying-saucer tent
ferris-wheel glowing-star light-bulb alarm-clock ghost gem-stone hot-beverage volcano
""".split()


@cache
def _sheet(style: str) -> np.ndarray:
    with Image.open(FOLDER / f"{style}.png", formats=["PNG"]) as image:
        return np.asarray(image.convert("RGBA"))


def drawing(name: str, style: str = "fluent") -> np.ndarray:
    """One drawing, uint8 RGBA [CELL, CELL, 4]: it stands on the cell's bottom, in its middle."""
    row, column = divmod(NAMES.index(name), COLUMNS)
    rows, columns = (slice(i * CELL, (i + 1) * CELL) for i in (row, column))
    return _sheet(style)[rows, columns]
