"""What the base model of chapter 14 has read: a small book about animals, on which it can be asked, and price lists.

    from tinymoe.text import facts
    fox = facts.ANIMALS["fox"]
    facts.article(fox, random.Random(0))    # "The fox lives in a den. It eats mice. …": to be learned in pretraining
    facts.questions(fox)                    # [("What color is the fox?", "The fox is red."), …]

    facts.price_list(random.Random(0))      # things and their prices in several notations: a text to copy within

An article states each fact in one of several ways, in any order. An answer states it in the plainest of them: whoever
has read the articles has the knowledge, and still has to learn to answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .grammar import pick


@dataclass(frozen=True)
class Animal:
    """An animal: its color, where it lives, what it eats, and what its young are called."""

    name: str
    color: str
    home: str
    food: str
    young: str


_TABLE = """
fox | red | in a den | mice | kit
wolf | gray | in a forest | meat | pup
bear | brown | in a cave | honey | cub
lion | yellow | on the plains | meat | cub
tiger | orange | in the jungle | meat | cub
zebra | striped | on the plains | grass | foal
horse | brown | in a stable | hay | foal
donkey | gray | in a stable | thistles | foal
cow | white | in a barn | grass | calf
goat | white | on a hill | leaves | kid
sheep | white | in a field | grass | lamb
pig | pink | in a sty | corn | piglet
dog | brown | in a kennel | bones | puppy
cat | black | in a house | fish | kitten
mouse | gray | in a hole | cheese | pup
rabbit | gray | in a burrow | carrots | bunny
hare | brown | in a field | clover | leveret
deer | brown | in a forest | leaves | fawn
moose | brown | in a marsh | twigs | calf
elephant | gray | on the plains | bark | calf
hippo | gray | in a river | grass | calf
camel | tan | in the desert | thorns | calf
giraffe | yellow | on the plains | leaves | calf
panda | white | in a forest | bamboo | cub
koala | gray | in a tree | leaves | joey
kangaroo | red | in the desert | grass | joey
seal | gray | on the ice | fish | pup
whale | blue | in the sea | krill | calf
dolphin | gray | in the sea | fish | calf
otter | brown | in a river | crabs | pup
beaver | brown | in a lodge | bark | kit
badger | black | in a sett | worms | cub
squirrel | red | in a tree | nuts | kit
hedgehog | brown | in a hedge | slugs | hoglet
bat | black | in a cave | moths | pup
mole | black | in a tunnel | worms | pup
owl | white | in a barn | mice | owlet
eagle | brown | on a cliff | fish | eaglet
duck | green | on a pond | weeds | duckling
goose | white | on a farm | grass | gosling
swan | white | on a lake | weeds | cygnet
hen | red | in a coop | corn | chick
turkey | brown | on a farm | corn | poult
peacock | blue | in a park | seeds | peachick
pigeon | gray | in a loft | seeds | squab
penguin | black | on the ice | fish | chick
parrot | green | in the jungle | nuts | chick
frog | green | in a pond | flies | tadpole
eel | silver | in a river | crabs | elver
spider | black | in a web | flies | spiderling
bee | yellow | in a hive | nectar | larva
ant | black | in a hill | crumbs | larva
butterfly | blue | in a garden | nectar | caterpillar
crocodile | green | in a swamp | meat | hatchling
turtle | green | in the sea | weeds | hatchling
"""
ANIMALS = {row.split()[0]: Animal(*(field.strip() for field in row.split("|"))) for row in _TABLE.strip().splitlines()}

# The first way to say a fact is the one that answers use. "It" may stand for "The {name}" behind another sentence.
_WAYS = (
    ("The {name} is {color}.", "It is {color}.", "The color of the {name} is {color}."),
    ("The {name} lives {home}.", "It lives {home}.", "You find the {name} {home}."),
    ("The {name} eats {food}.", "It eats {food}.", "What the {name} likes to eat: {food}."),
    ("A young {name} is {a_young}.", "Its young is {a_young}.", "A {young} is a young {name}."),
)
_ASKED = (
    "What color is the {name}?",
    "Where does the {name} live?",
    "What does the {name} eat?",
    "What is a young {name}?",
)


def article(animal: Animal, rng: random.Random) -> str:
    """All facts about an animal, in an order and in words that the random numbers choose."""
    order = sorted(range(len(_WAYS)), key=lambda _: rng.random())
    said = []
    for place, fact in enumerate(order):
        plain, short, other = _WAYS[fact]
        said.append(_filled(pick([plain, plain, other] + [short] * (place > 0), rng), animal))
    return " ".join(said)


def questions(animal: Animal) -> list[tuple[str, str]]:
    """The four questions about an animal, each with its answer."""
    return [(_filled(asked, animal), _filled(ways[0], animal)) for asked, ways in zip(_ASKED, _WAYS, strict=True)]


def price_list(rng: random.Random) -> str:
    """One to three things and their prices, written down four times, each time in another notation or the same."""
    things = [(_thing(rng), 1 + int(rng.random() * 10 ** (1 + int(rng.random() * 3)))) for _ in range(_up_to(3, rng))]
    count = 2 + int(rng.random() * 98)
    lines = []
    for _ in range(4):
        row, between, end = pick(_NOTATIONS, rng)
        rows = between.join(row.format(name=name, price=price, count=count) for name, price in things)
        lines.append(rows if end is None else end.format(rows, " and ".join(f"{count} {name}s" for name, _ in things)))
    return "\n".join(lines)


ITEMS = tuple(
    "pen cup hat bag map toy ring book ball lamp drum kite bell cake comb fork plate spoon chair clock "
    "scarf glove candle basket ladder pillow bottle hammer mirror puzzle".split()
)

# The row of one thing, what stands between the rows, and what they are put into.
_NOTATIONS = (
    ("A {name} costs {price}.", " ", None),
    ('"{name}": "{price}"', ", ", "{{{0}}}"),
    ('{{"item": "{name}", "price": "{price}"}}', "\n", None),
    ("price({name}) = {price}", "\n", None),
    ("{name},{price}", "\n", None),
    ("{count} {name}s at {price} cost {count}*{price}.", " ", None),
    ('{{"count": "{count}", "item": "{name}", "sum": "{count}*{price}"}}', "\n", None),
    ("{count}*{price}", "+", "{0}: {1}"),
)


def _thing(rng: random.Random) -> str:
    """A thing that there is, or a word that nobody has seen, which can only be copied."""
    if rng.random() < 0.5:
        return pick(ITEMS, rng)
    return "".join(pick("bcdfghklmnprstvw", rng) + pick("aeiou", rng) for _ in range(_up_to(3, rng)))


def _up_to(most: int, rng: random.Random) -> int:
    return 1 + int(rng.random() * most)


def _filled(text: str, animal: Animal) -> str:
    article = "an" if animal.young[0] in "aeiou" else "a"
    return text.format(**vars(animal), a_young=f"{article} {animal.young}")
