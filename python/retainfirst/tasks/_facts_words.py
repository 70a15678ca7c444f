"""The words of the facts model: 94 of them, and with four special tokens a vocabulary of 98."""

# ruff: noqa: SIM905 - a list of words is easier to read without a pair of quotes for each

from __future__ import annotations

__all__ = ["FACTS_CONFIG_KEY", "FIRST_NAMES", "LAST_NAMES", "MIDDLE_NAMES", "OBJECTS", "SPECIAL_TOKENS", "vocabulary"]

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")

FIRST_NAMES = "Ada Ben Cleo Dara Eli Fay Gus Hana Ivo Jun Kira Leo Mina Nils".split()
MIDDLE_NAMES = "Ash Blue Clay Dove Elm Fern Gale Hope Ivy Jade Kite Lark Moon Ray".split()
LAST_NAMES = "Abbot Bell Cohen Diaz Evans Frost Grant Hale Ito Jones Khan Lopez Moss Novak".split()

FACTS_CONFIG_KEY = "retainfirst_facts"
"""Entry of the model's config.json that holds the FactsConfig, so that its facts can be drawn again."""

OBJECTS: dict[str, list[str]] = {
    "lives-in": "Oslo Lima Cairo Delhi Paris Quito Seoul Tunis Vienna Warsaw Zagreb Dakar".split(),
    "works-as": "baker clerk dentist farmer judge miner nurse painter sailor tailor teacher waiter".split(),
    "plays": "banjo cello drums flute guitar harp lute oboe piano sitar trumpet violin".split(),
    "speaks": "Arabic Basque Czech Danish Finnish Greek Hindi Irish Korean Malay Polish Welsh".split(),
}
"""The objects of each relation."""


def vocabulary() -> dict[str, int]:
    """Return every token with its id; the special tokens come first."""
    objects = [word for words in OBJECTS.values() for word in words]
    words = [*SPECIAL_TOKENS, *FIRST_NAMES, *MIDDLE_NAMES, *LAST_NAMES, *OBJECTS, *objects]
    return {word: index for index, word in enumerate(words)}
