"""The words of the facts model: 94, with four special tokens a vocabulary of 98; an extended set has 200 tokens."""

# ruff: noqa: SIM905 - a list of words is easier to read without a pair of quotes for each

from __future__ import annotations

from itertools import chain

__all__ = [
    "FACTS_CONFIG_KEY",
    "FIRST_NAMES",
    "LAST_NAMES",
    "MIDDLE_NAMES",
    "OBJECTS",
    "OTHER_FIRST_NAMES",
    "OTHER_LAST_NAMES",
    "OTHER_MIDDLE_NAMES",
    "OTHER_OBJECTS",
    "PARAPHRASES",
    "SPECIAL_TOKENS",
    "vocabulary",
]

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")

FIRST_NAMES = "Ada Ben Cleo Dara Eli Fay Gus Hana Ivo Jun Kira Leo Mina Nils".split()
MIDDLE_NAMES = "Ash Blue Clay Dove Elm Fern Gale Hope Ivy Jade Kite Lark Moon Ray".split()
LAST_NAMES = "Abbot Bell Cohen Diaz Evans Frost Grant Hale Ito Jones Khan Lopez Moss Novak".split()

FACTS_CONFIG_KEY = "retainfirst_facts"
"""The entry of the model's config.json that has its FactsConfig, from which the facts can be drawn again."""

OBJECTS: dict[str, list[str]] = {
    "lives-in": "Oslo Lima Cairo Delhi Paris Quito Seoul Tunis Vienna Warsaw Zagreb Dakar".split(),
    "works-as": "baker clerk dentist farmer judge miner nurse painter sailor tailor teacher waiter".split(),
    "plays": "banjo cello drums flute guitar harp lute oboe piano sitar trumpet violin".split(),
    "speaks": "Arabic Basque Czech Danish Finnish Greek Hindi Irish Korean Malay Polish Welsh".split(),
}
"""The objects of each relation."""


# The second set of words, which shares none with the first.
OTHER_FIRST_NAMES = "Abe Bea Cy Dot Ed Flo Gil Hal Ida Jo Ken Liv Max Ned".split()
OTHER_MIDDLE_NAMES = "Birch Cliff Dale Ember Flint Glen Heath Iris Jet Lily Marsh Oak Pine Reed".split()
OTHER_LAST_NAMES = "Adler Brown Clark Dunn Ellis Ford Green Hill Irwin Joyce King Lowe Moore Nash".split()
OTHER_OBJECTS: dict[str, list[str]] = {
    "eats": "apples beans carrots dates eggs figs grapes honey kale lentils mango noodles".split(),
    "drives": "ambulance bus cart digger ferry glider hearse jeep limousine moped tractor van".split(),
    "keeps": "ants bees cat dog emu ferret goat hens iguana llama mouse newt".split(),
    "collects": "buttons coins dolls fans gems hats kites maps masks pens shells stamps".split(),
}

PARAPHRASES: dict[str, str] = {
    "lives-in": "home-of",
    "works-as": "trade-of",
    "plays": "instrument-of",
    "speaks": "language-of",
    "eats": "food-of",
    "drives": "vehicle-of",
    "keeps": "pet-of",
    "collects": "hobby-of",
}
"""By relation, the first word of the second form of a prompt; the person follows it."""


def vocabulary(*, extended: bool = False) -> dict[str, int]:
    """Return the id of every token; the special tokens come first.

    Args:
        extended: Include the second set of words and the paraphrases.
    """
    words = [*SPECIAL_TOKENS, *FIRST_NAMES, *MIDDLE_NAMES, *LAST_NAMES, *OBJECTS, *chain(*OBJECTS.values())]
    if extended:
        words += [*OTHER_FIRST_NAMES, *OTHER_MIDDLE_NAMES, *OTHER_LAST_NAMES, *OTHER_OBJECTS]
        words += [*chain(*OTHER_OBJECTS.values()), *PARAPHRASES.values()]
    return {word: index for index, word in enumerate(words)}
