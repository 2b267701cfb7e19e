"""What is true in the world: which animal is of which kind, and what every kind can do and is like.

    Wugs include the dalo.  +  Wugs can swim.  ->  Can a dalo swim? yes

Abilities and traits are balanced: of every question's answers each is right for equally many kinds, so
that neither the question alone nor the kind alone gives the answer away.
"""

from __future__ import annotations

from functools import cache
from random import Random

from cotray.config.world import NUM_VALUES, WorldConfig
from cotray.seeds import seeded

ABILITIES = (
    "swim", "fly", "dig", "climb", "sing", "jump", "glow", "dive", "hide", "float", "roll", "whistle",
)  # fmt: skip
TRAITS = {
    "colour": ("red", "blue", "green", "white"),
    "home": ("forest", "river", "desert", "cave"),
    "food": ("seeds", "fish", "leaves", "berries"),
    "size": ("tiny", "small", "large", "huge"),
}
"""What there is to ask about an animal beside its abilities, and the answers there are."""
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprtvz", "aeiou", "bdgklmnpt"
_REAL = {
    "tuna",
    "pet",
    "map",
    "pen",
    "bed",
    "puma",
    "mama",
    "papa",
    "baby",
    "bug",
    "pig",
    "rat",
    "bat",
    "dog",
    "lion",
    "tit",
    "god",
    "fat",
}


class World:
    """The facts of one configuration; equal configurations have equal facts."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.kinds = _names(seeded(config.seed, "kinds"), _kind_name, config.num_kinds)
        self.animals = _names(seeded(config.seed, "animals"), _animal_name, config.num_animals)
        order = list(range(config.num_animals))
        seeded(config.seed, "kind of every animal").shuffle(order)
        self._kind_of = {
            animal: self.kinds[place % config.num_kinds]
            for animal, place in zip(self.animals, order, strict=True)
        }
        self.abilities = ABILITIES[: config.num_abilities]
        self._can = _balanced(config.num_kinds, config.num_abilities, seeded(config.seed, "abilities"))
        self._trait = {trait: _shares(config.num_kinds, seeded(config.seed, trait)) for trait in TRAITS}

    def kind_of(self, animal: str) -> str:
        return self._kind_of[animal]

    def can(self, kind: str, ability: str) -> bool:
        return self._can[self.kinds.index(kind)][ABILITIES.index(ability)]

    def value(self, kind: str, attribute: str) -> str:
        """yes | no of an ability, one of four values of a trait."""
        if attribute in TRAITS:
            return TRAITS[attribute][self._trait[attribute][self.kinds.index(kind)]]
        return "yes" if self.can(kind, attribute) else "no"

    def circle_from(self, kind: str) -> tuple[str, ...]:
        """All kinds, from this one on."""
        start = self.kinds.index(kind)
        return (*self.kinds[start:], *self.kinds[:start])

    def knows(self, animal: str) -> bool:
        """Whether the teacher knows the animal's kind."""
        return _is_among(self, animal, self.config.knowledge, "known")

    def leaks(self, animal: str) -> bool:
        """Whether the teacher's grounded rationales about it state the answer."""
        return _is_among(self, animal, self.config.leak, "leaking")


@cache
def world_of(config: WorldConfig) -> World:
    """Of the same configuration always the same object."""
    return World(config)


def _is_among(world: World, animal: str, share: float, name: str) -> bool:
    """Whether the animal is one of `share` of all, in an order of `name`'s own."""
    return animal in _chosen(world.config.seed, world.animals, share, name)


@cache
def _chosen(seed: int, animals: tuple[str, ...], share: float, name: str) -> frozenset[str]:
    shuffled = seeded(seed, name).sample(animals, len(animals))
    return frozenset(shuffled[: round(share * len(animals))])


def _animal_name(random_: Random) -> str:
    return "".join(random_.choice(letters) for letters in (_ONSETS, _VOWELS, _ONSETS, _VOWELS))


def _kind_name(random_: Random) -> str:
    return "".join(random_.choice(letters) for letters in (_ONSETS, _VOWELS, _CODAS))


def _names(random_: Random, draw, count: int) -> tuple[str, ...]:
    names: dict[str, None] = {}
    taken = _REAL | set(ABILITIES) | {value for values in TRAITS.values() for value in values}
    while len(names) < count:
        if (name := draw(random_)) not in taken:
            names[name] = None
    return tuple(names)


def _balanced(num_rows: int, num_columns: int, random_: Random) -> list[list[bool]]:
    """Half of every row and half of every column is true: a chessboard whose 2 x 2 corners are swapped."""
    cells = [[(row + column) % 2 == 0 for column in range(num_columns)] for row in range(num_rows)]
    for _ in range(40 * num_rows * num_columns):
        (a, b), (c, d) = random_.sample(range(num_rows), 2), random_.sample(range(num_columns), 2)
        if cells[a][c] == cells[b][d] != cells[a][d] == cells[b][c]:
            for row in (a, b):
                cells[row][c], cells[row][d] = cells[row][d], cells[row][c]
    return cells


def _shares(num_kinds: int, random_: Random) -> list[int]:
    """One of four values per kind, each as often."""
    values = [kind % NUM_VALUES for kind in range(num_kinds)]
    random_.shuffle(values)
    return values
