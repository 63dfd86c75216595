"""Word scenes of the emoji theatre: many orders, several words for everything, things left out.

Only words and no drawing: what a caption does not name may be anything.
"""

from __future__ import annotations

import numpy as np

from training.data.emoji import GROUNDS, MOTIONS, SKIES, WEATHERS, Actor, Scene

# Words for drawings that are not called by the package's name; the second is the rarer one.
NOUNS: dict[str, tuple[str, ...]] = {
    "t-rex": ("dinosaur", "t-rex"),
    "tropical-fish": ("fish", "tropical fish"),
    "automobile": ("car", "little car"),
    "deciduous-tree": ("tree", "leafy tree"),
    "snowman-without-snow": ("snowman", "snow figure"),
    "cat": ("cat", "kitten"),
    "dog": ("dog", "puppy"),
    "rabbit": ("rabbit", "bunny"),
    "sailboat": ("sailboat", "boat"),
    "rocket": ("rocket", "spaceship"),
    "house": ("house", "cottage"),
    "mushroom": ("mushroom", "toadstool"),
    "spouting-whale": ("whale", "spouting whale"),
    "honeybee": ("bee", "honeybee"),
    "lady-beetle": ("ladybird", "ladybug"),
    "red-apple": ("apple", "ripe apple"),
    "birthday-cake": ("cake", "birthday cake"),
    "locomotive": ("train", "steam engine"),
    "teddy-bear": ("teddy bear", "teddy"),
    "chicken": ("chicken", "hen"),
    "ewe": ("sheep", "ewe"),
    "chipmunk": ("chipmunk", "squirrel"),
    "palm-tree": ("palm tree", "palm"),
    "evergreen-tree": ("fir tree", "fir"),
    "christmas-tree": ("christmas tree", "decorated tree"),
    "maple-leaf": ("maple leaf", "leaf"),
    "grapes": ("bunch of grapes", "grape"),
    "cherries": ("pair of cherries", "cherry"),
    "jack-o-lantern": ("pumpkin", "halloween pumpkin"),
    "hamburger": ("hamburger", "burger"),
    "ice-cream": ("bowl of ice cream", "ice cream"),
    "soccer-ball": ("football", "soccer ball"),
    "bicycle": ("bicycle", "bike"),
    "airplane": ("plane", "airplane"),
    "flying-saucer": ("flying saucer", "ufo"),
    "ferris-wheel": ("ferris wheel", "big wheel"),
    "glowing-star": ("star", "glowing star"),
    "light-bulb": ("light bulb", "lamp"),
    "alarm-clock": ("alarm clock", "clock"),
    "gem-stone": ("diamond", "gem"),
    "hot-beverage": ("cup of coffee", "coffee cup"),
}
# What one does, and what two do; "{who}" where it is not the subject.
MOTION_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "still": (
        ("stands still", "does not move", "waits", "rests"),
        ("stand still", "do not move", "wait", "rest"),
    ),
    "left": (
        ("moves left", "goes to the left", "slides left", "travels to the left"),
        ("move left", "go to the left", "slide left", "travel to the left"),
    ),
    "right": (
        ("moves right", "goes to the right", "slides right", "travels to the right"),
        ("move right", "go to the right", "slide right", "travel to the right"),
    ),
    "up": (("floats up", "rises into the air", "flies up", "goes up"), ()),
    "jump": (
        ("jumps", "hops up and down", "bounces", "leaps"),
        ("jump", "hop up and down", "bounce", "leap"),
    ),
    "closer": (("comes closer", "comes towards us", "gets nearer", "grows larger"), ()),
    "spin": (("spins", "turns around", "spins around", "twirls"), ()),
    "pan": (
        (
            "runs along as the camera follows",
            "travels with the camera",
            "is followed by the camera",
        ),
        (),
    ),
    "zoom": (("waits as the camera zooms in", "stays as the camera moves closer"), ()),
    "chase": ((), ("chases", "runs after", "follows", "hunts")),
}
SKY_WORDS = {
    "day": ("on a sunny day", "under a blue sky", "in daylight"),
    "night": ("at night", "under the moon", "in the dark night"),
    "sunset": ("at sunset", "in the evening", "under a red sky"),
    "cloudy": ("on a cloudy day", "under grey clouds", "on a grey day"),
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "aurora": ("under northern lights", "under an aurora", "below green lights"),
    "rainbow": ("under a rainbow", "with a rainbow behind", "below a rainbow"),
}
GROUND_WORDS = {
    "meadow": ("on a meadow", "on the grass", "in a green field"),
    "desert": ("in the desert", "on the sand", "on a sandy plain"),
    "snow": ("on the snow", "in a snowy field", "on white snow"),
    "sea": ("on the sea", "on the water", "on the ocean"),
    "street": ("on a street", "on the road", "in the street"),
    "stage": ("on a stage", "on a wooden floor", "on wooden boards"),
    "moon": ("on the moon", "among craters", "on moon rock"),
    "leaves": ("on autumn leaves", "among fallen leaves", "in the leaves"),
    "flowers": ("among flowers", "in a flower field", "on a field of flowers"),
}
WEATHER_WORDS = {
    "snow": ("while snow falls", "in falling snow", "as it snows"),
    "rain": ("while rain falls", "in the rain", "as it rains"),
    "confetti": ("while confetti falls", "in a shower of confetti", "with confetti"),
    "glitter": ("while glitter sparkles", "in sparkling glitter", "with glitter"),
}
assert set(SKY_WORDS) == set(SKIES) and set(GROUND_WORDS) == set(GROUNDS)
assert set(WEATHER_WORDS) == set(WEATHERS) and set(MOTION_WORDS) == set(MOTIONS)

# Orders of what happens, ground, sky and weather. The test forms are never trained on.
FORMS = (
    "{core} {ground} {sky} {weather}",
    "{core} {ground} {weather} {sky}",
    "{core} {sky} {ground} {weather}",
    "{core} {weather} {ground} {sky}",
    "{ground} {core} {sky} {weather}",
    "{ground} {sky} {core} {weather}",
    "{sky} {core} {ground} {weather}",
    "{sky} {ground} {weather} {core}",
    "{weather} {core} {ground} {sky}",
    "{weather} {sky} {core} {ground}",
    "{core}, {ground}, {sky}, {weather}",
    "{sky}, {core} {ground} {weather}",
    "a clip of this: {core} {ground} {sky} {weather}",
)
TEST_FORMS = (
    "{core} {weather} {sky} {ground}",
    "{ground} {weather} {core} {sky}",
    "{sky} {weather} {core} {ground}",
    "{weather}, {ground}, {core} {sky}",
)
NOUN_FORMS = (
    "a {colour} {noun}",
    "a {colour} {noun}",
    "a {noun} on {colour} paper",
    "a {colour} paper {noun}",
    "a {noun} with a {colour} border",
)


def _article(phrase: str) -> str:
    """The same with "an" where a vowel follows."""
    first, _, rest = phrase.partition(" ")
    return f"an {rest}" if first == "a" and rest[0] in "aeiou" else phrase


def nouns(subject: str) -> tuple[str, ...]:
    """The words for a drawing."""
    return NOUNS.get(subject, (subject.replace("-", " "),))


def noun(actor: Actor, rng: np.random.Generator) -> str:
    """The sticker with its paper's colour if it has one: "a blue fox", "an owl"."""
    names = nouns(actor.subject)
    name = names[int(len(names) > 1 and rng.random() < 0.2)]
    form = str(rng.choice(NOUN_FORMS)) if actor.colour else "a {noun}"
    text = _article(form.format(colour=actor.colour, noun=name))
    return "the " + text.split(" ", 1)[1] if rng.random() < 0.1 else text


def caption(scene: Scene, rng: np.random.Generator, *, test: bool = False) -> str:
    """Word a scene; ground, sky or both may be left out, now and then all but what happens."""
    alone, together = MOTION_WORDS[scene.motion]
    names = [noun(actor, rng) for actor in scene.actors]
    if len(names) == 1:
        core = f"{names[0]} {rng.choice(alone)}"
    elif scene.motion == "chase":  # the one behind chases the one in front
        core = f"{names[0]} {rng.choice(together)} {names[1]}"
    else:
        core = f"{names[0]} and {names[1]} {rng.choice(together)}"
    parts = {
        "ground": str(rng.choice(GROUND_WORDS[scene.ground])),
        "sky": str(rng.choice(SKY_WORDS[scene.sky])),
        "weather": str(rng.choice(WEATHER_WORDS[scene.weather])) if scene.weather else "",
    }
    bare = rng.random() < 0.06
    for part in parts:
        if bare or (part != "weather" and rng.random() < 0.15):
            parts[part] = ""
    if scene.motion == "still" and rng.random() < 0.3:
        core = " and ".join(names)
    text = str(rng.choice(TEST_FORMS if test else FORMS)).format(core=core, **parts)
    return tidy(text)


def tidy(text: str) -> str:
    """Without doubled blanks and commas that stand before nothing."""
    parts = [" ".join(part.split()) for part in text.split(",")]
    return ", ".join(part for part in parts if part)
