"""Short stories from a grammar of our own: the corpus that most chapters train on.

A *plot* is a list of beats, and a beat is a list of ways to say the same thing. Before a tale is told, its
*scene* is set: who it is about, what was lost, where it lies, what everybody is called. Every sentence then
draws on that one scene, so names, pronouns, places and things stay the same from the first line to the last,
and a model that tells tales well has to remember them. The spirit is that of TinyStories (Eldan and Li, 2023,
arXiv:2305.07759): simple words and real plots, so that even a small model can be seen to become fluent.

The plots stand in `tinymoe/data/tales/*.txt`, whose texts are in the language of `tinymoe.text.grammar`:

    words color: red, blue        a list of words, separated by commas; long lists go on in indented lines
    table treat: one / many       a table with named fields, one indented row a line, fields separated by slashes
    subset prey of animal: mouse  some rows of another table
    ## the lost toy               a plot begins; then come its slots, up to the first blank line:
    hero: child                   whom it is about: a child, a girl, a boy, or the name of a table of animals
    thing: toy                    one row of a table, the same throughout the tale
    spot = at / where             a table of this plot alone, and one row of it
    - One day, {hero} went out.   one way to tell a beat; blank lines separate beats
    ? It was Sunday.              the same, in a beat that half of the tales leave out
    ~                             a new paragraph

{he}, {him}, {his} and {himself} are the hero's pronouns; {friend.he} and so on are the friend's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from .grammar import Row, Table, Text, parse, parse_row, parse_table, pick, with_articles, write

MIN_WORDS, MAX_WORDS = 80, 250

_FILES = ("words.txt", "children.txt", "animals.txt", "wonders.txt", "moments.txt")
_PRONOUNS = {
    "girl": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "boy": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}
# A parent and the friend are of the other sex than the hero, so that "he" and "she" always say who is meant.
_CHILD_PARENTS = {"girl": (("Dad", "dad"), ("Grandpa", "grandpa")), "boy": (("Mom", "mom"), ("Grandma", "grandma"))}
_ANIMAL_PARENTS = {"girl": (("Papa", "father"),), "boy": (("Mama", "mother"),)}


@dataclass
class Plot:
    """One plot: the slots that set its scene, and its beats. A beat that is None begins a new paragraph."""

    title: str
    hero: str = "child"
    slots: dict[str, Table] = field(default_factory=dict)
    beats: list[list[Text] | None] = field(default_factory=list)


@dataclass
class Storyteller:
    """The tables and plots that tales are told from."""

    tables: dict[str, Table] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)

    def tell(self, rng: random.Random) -> str:
        """One tale of 80 to 250 words. A line break separates its paragraphs."""
        while True:
            plot = pick(self.plots, rng)
            scene = self._scene(plot, rng)
            told = [
                "\n" if beat is None else write(pick(beat, rng), rng, scene, self.tables) + " " for beat in plot.beats
            ]
            tale = re.sub(r" *\n\s*", "\n", re.sub(r" +", " ", "".join(told))).strip()
            if MIN_WORDS <= len(tale.split()) <= MAX_WORDS:
                return with_articles(tale)

    def _scene(self, plot: Plot, rng: random.Random) -> dict[str, Row]:
        """Draw the cast, then a row for every slot."""
        human = plot.hero in ("child", "girl", "boy")
        sex = plot.hero if plot.hero in _PRONOUNS else pick(("girl", "boy"), rng)
        other = "boy" if sex == "girl" else "girl"
        cast: set[str] = set()
        scene = {
            "hero": self._creature(None if human else plot.hero, sex, cast, rng),
            "friend": self._creature(None if human else plot.hero, other, cast, rng),
        }
        name, noun = pick((_CHILD_PARENTS if human else _ANIMAL_PARENTS)[sex], rng)
        scene["parent"] = parse_row({"name": name, "noun": noun, **_PRONOUNS[other]})
        for pronoun in _PRONOUNS[sex]:
            scene[pronoun] = {pronoun: scene["hero"][pronoun]}
        for slot, table in plot.slots.items():
            scene[slot] = _draw(table, cast, rng)
        return scene

    def _creature(self, kind: str | None, sex: str, cast: set[str], rng: random.Random) -> Row:
        """A child (`kind` None) or an animal, with a name that nobody in the cast has."""
        if kind is None:
            names = self.tables[sex]
            home = pick(self.tables["childhome"].rows, rng)["name"]
            body = {**parse_row({"noun": sex, "moved": "[ran|hurried|walked|skipped]"}), "home": home}
        else:
            names = self.tables["shecreature" if sex == "girl" else "hecreature"]
            body = _draw(self.tables[kind], cast, rng)
            cast.add(str(body["noun"][0]))
        name = _draw(names, cast, rng)
        cast.add(str(name["name"][0]))
        return {**name, **body, **parse_row(_PRONOUNS[sex])}


def tale(index: int, seed: int = 0) -> str:
    """Tale number `index` of the endless collection `seed`: always the same text, on every machine.

    >>> tale(3) == tale(3), tale(3) == tale(4)
    (True, False)
    """
    return storyteller().tell(random.Random(f"tales/{seed}/{index}"))


def tales(seed: int = 0) -> Iterator[str]:
    """All tales of collection `seed`, without end."""
    index = 0
    while True:
        yield tale(index, seed)
        index += 1


@cache
def storyteller() -> Storyteller:
    """The storyteller who has read the package's plots."""
    teller = Storyteller()
    for name in _FILES:
        _read((files("tinymoe") / "data" / "tales" / name).read_text(encoding="utf-8"), teller)
    return teller


def _draw(table: Table, cast: set[str], rng: random.Random) -> Row:
    """A row that speaks of nobody in the cast: a fox does not meet another fox by chance."""
    while True:
        number = int(rng.random() * len(table.rows))
        if not (table.words[number] & cast):
            return table.rows[number]


def _read(source: str, teller: Storyteller) -> None:
    """Add what one file says to the storyteller. An entry is a line with the indented lines below it."""
    beat: list[Text] = []
    for entry in re.split(r"\n(?=\S)", re.sub(r"(?m)^#(?!#).*\n", "", source).strip()):
        head, *rest = entry.rstrip().split("\n")
        if head.startswith(("words ", "table ", "subset ")):
            _read_table(head, rest, teller.tables)
        elif head.startswith("## "):
            teller.plots.append(Plot(head[3:]))
        elif head == "~":
            teller.plots[-1].beats.append(None)
            beat = []
        elif head.startswith(("- ", "? ")):
            if not beat:
                teller.plots[-1].beats.append(beat)
            beat.extend([parse(head[2:])] if head[0] == "-" else [parse(head[2:]), ()])
            if entry.endswith("\n"):  # a blank line ends the beat
                beat = []
        elif match := re.match(r"hero: (\w+)$", head):
            teller.plots[-1].hero = match[1]
        elif match := re.match(r"(\w+): (\w+)$", head):
            teller.plots[-1].slots[match[1]] = teller.tables[match[2]]
        elif match := re.match(r"(\w+) = (.*)", head):
            teller.plots[-1].slots[match[1]] = parse_table(match[2].split(" / "), rest)
        else:
            raise ValueError(f"the tales' grammar has a line that means nothing: {head!r}")


def _read_table(head: str, rest: list[str], tables: dict[str, Table]) -> None:
    if match := re.match(r"words (\w+): (.*)", head):
        tables[match[1]] = parse_table(["name"], " ".join([match[2], *rest]).split(","))
    elif match := re.match(r"table (\w+): ?(.*)", head):
        tables[match[1]] = parse_table((match[2] or "name").split(" / "), rest)
    elif match := re.match(r"subset (\w+) of (\w+): (.*)", head):
        whole = tables[match[2]]
        wanted = {name.strip() for name in " ".join([match[3], *rest]).split(",")}
        chosen = [number for number, row in enumerate(whole.rows) if next(iter(row.values()))[0] in wanted]
        if len(chosen) != len(wanted):
            raise ValueError(f"{head!r} names {len(wanted)} rows, but only {len(chosen)} of them exist")
        tables[match[1]] = Table(
            tuple(whole.rows[number] for number in chosen), tuple(whole.words[number] for number in chosen)
        )
    else:
        raise ValueError(f"the tales' grammar has a table that cannot be read: {head!r}")
