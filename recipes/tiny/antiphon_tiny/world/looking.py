"""Questions about a picture, with their answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from antiphon_tiny.world.exchange import Exchange
from antiphon_tiny.world.scene import Filter, Scene, Shape
from antiphon_tiny.world.words import COLOURS, KINDS, NOUNS, PLACES, SIZES, article, number, sentence

__all__ = ["FIRST_LOOKS", "FOLLOW_UPS", "LOOKS", "ask_about_picture", "follow_up", "no_picture"]

Look = Callable[[random.Random, Scene], "Exchange | None"]

SEEN = ("are there", "do you see", "can you see", "are in the picture")
IS_THERE = ("Is there {}?", "Do you see {}?", "Can you see {}?", "Is there {} in the picture?")
DESCRIBE = (
    "What do you see?",
    "What can you see?",
    "What is in the picture?",
    "What is in this picture?",
    "What shapes are in the picture?",
    "Which shapes are in the picture?",
    "What shapes do you see?",
    "What does the picture show?",
    "Describe the picture.",
    "Describe this picture.",
    "Describe what you see.",
    "Tell me what you see.",
    "Tell me about the picture.",
    "Look at the picture.",
)
SIDES = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}
FURTHER = {"further left": "left of", "further right": "right of", "higher": "above", "lower": "below"}
NO_PICTURE = "I see no picture."


def count(rng: random.Random, scene: Scene) -> Exchange:
    what = _group(rng, scene)
    form = rng.choice((*SEEN, "count"))
    if form == "count":
        question = f"Count the {what.many}."
    else:
        question = f"How many {what.many} {form}?"
    return Exchange(
        question, _counted(what, scene), "count", about=("count", what), rests_on=_all(what, scene)
    )


def exists(rng: random.Random, scene: Scene) -> Exchange:
    what = _group(rng, scene)
    found = _all(what, scene)
    name = what.one
    if rng.random() < 0.12:  # what no picture shows
        name, found = rng.choice(NOUNS), ()
    form = rng.choice(IS_THERE)
    if form.startswith("Is"):
        answer = "Yes there is." if found else "No there is not."
    elif form.startswith("Do"):
        answer = "Yes I do." if found else "No I do not."
    else:
        answer = "Yes I can." if found else "No I cannot."
    return Exchange(form.format(article(name)), answer, "exists", closed=True, rests_on=found)


def colour(rng: random.Random, scene: Scene) -> Exchange:
    what = _single(rng, scene, with_colour=False)
    form = rng.choice(("What colour is the {}?", "Which colour is the {}?", "Tell me the colour of the {}."))
    return _about_one(form.format(what.one), _coloured, scene, "colour", ("colour", what))


def kind(rng: random.Random, scene: Scene) -> Exchange:
    what = Filter(colour=_pick(rng, [s.colour for s in scene.shapes], COLOURS))
    found = what.of(scene)
    if not found:
        answer = f"Nothing is {what.colour}."
    elif len(found) == 1:
        answer = f"The {found[0].kind} is {what.colour}."
    else:
        answer = f"{number(len(found)).capitalize()} shapes are {what.colour}."
    form = rng.choice(("What shape is {}?", "Which shape is {}?", "What is {}?"))
    return Exchange(form.format(what.colour), answer, "kind", True, rests_on=tuple(found))


def place(rng: random.Random, scene: Scene) -> Exchange:
    what = _single(rng, scene)
    form = rng.choice(("Where is the {}?", "Where do you see the {}?", "Tell me where the {} is."))
    return _about_one(form.format(what.one), _placed, scene, "place", ("place", what))


def at_place(rng: random.Random, scene: Scene) -> Exchange:
    name = _pick(rng, [shape.place for shape in scene.shapes], tuple(PLACES.values()))
    found = [shape for shape in scene.shapes if shape.place == name]
    answer = sentence(article(found[0].name)) if found else "Nothing."
    form = rng.choice(("What is {}?", "What do you see {}?", "Which shape is {}?"))
    return Exchange(form.format(name), answer, "at place", True, rests_on=tuple(found))


def relation(rng: random.Random, scene: Scene) -> Exchange | None:
    pair = _two(rng, scene)
    side = rng.choice(tuple(SIDES))
    if pair is None or _level(*pair, side):
        return None
    yes = SIDES[side](*pair)
    names = [_name(shape, scene) for shape in pair]
    question = f"Is the {names[0]} {side} the {names[1]}?"
    return Exchange(question, "Yes it is." if yes else "No it is not.", "relation", True, rests_on=pair)


def beside(rng: random.Random, scene: Scene) -> Exchange | None:
    shape = rng.choice(scene.shapes)
    side = rng.choice(tuple(SIDES))
    found = [other for other in scene.shapes if SIDES[side](other, shape)]
    if len(Filter(kind=shape.kind).of(scene)) > 1:
        return None
    if not found:
        answer = "Nothing."
    elif len(found) == 1:
        answer = sentence("the " + found[0].name)
    else:
        answer = sentence(number(len(found)) + " shapes")
    form = rng.choice(("What is {} the {}?", "Which shape is {} the {}?", "What do you see {} the {}?"))
    return Exchange(form.format(side, shape.kind), answer, "beside", True, rests_on=tuple(found))


def further(rng: random.Random, scene: Scene) -> Exchange | None:
    pair = _two(rng, scene)
    word = rng.choice(tuple(FURTHER))
    if pair is None or _level(*pair, FURTHER[word]):
        return None
    first, second = pair
    won = first if SIDES[FURTHER[word]](first, second) else second
    names = [_name(shape, scene) for shape in pair]
    form = rng.choice(("Which is {} the {} or the {}?", "What is {} the {} or the {}?"))
    answer = sentence("the " + _name(won, scene))
    return Exchange(form.format(word, *names), answer, "further", True, rests_on=pair)


def size(rng: random.Random, scene: Scene) -> Exchange:
    what = _single(rng, scene, with_size=False)
    form = rng.choice(("Is the {} big or small?", "How big is the {}?", "Is the {} small or big?"))
    return _about_one(form.format(what.one), _sized, scene, "size", ("size", what))


def describe(rng: random.Random, scene: Scene) -> Exchange:
    shapes = scene.shapes
    if len(shapes) == 1:
        seen = article(f"{shapes[0].size} {shapes[0].name}")
    elif len(shapes) <= 3:
        seen = " and ".join(article(shape.name) for shape in shapes)
    else:
        seen = number(len(shapes)) + " shapes"
    return Exchange(rng.choice(DESCRIBE), f"I see {seen}.", "describe", rests_on=shapes)


def more(rng: random.Random, scene: Scene) -> Exchange:
    if rng.random() < 0.3:
        wanted = [Filter(colour=c) for c in _two_names(rng, [s.colour for s in scene.shapes], COLOURS)]
    else:
        wanted = [Filter(kind=k) for k in _two_names(rng, [s.kind for s in scene.shapes], KINDS)]
    yes = len(wanted[0].of(scene)) > len(wanted[1].of(scene))
    question = f"Are there more {wanted[0].many} than {wanted[1].many}?"
    shapes = tuple(shape for what in wanted for shape in what.of(scene))
    return Exchange(question, "Yes there are." if yes else "No there are not.", "more", True, rests_on=shapes)


def attribute(rng: random.Random, scene: Scene) -> Exchange | None:
    shape = rng.choice(scene.shapes)
    what = Filter(kind=shape.kind)
    if len(what.of(scene)) > 1:
        return None
    asked = shape.colour if rng.random() < 0.5 else rng.choice(COLOURS)
    answer = "Yes it is." if asked == shape.colour else f"No it is {shape.colour}."
    question = f"Is the {shape.kind} {asked}?"
    return Exchange(question, answer, "attribute", True, about=("attribute", what), rests_on=(shape,))


LOOKS: dict[Look, float] = {
    count: 3.0,
    exists: 1.5,
    colour: 1.5,
    kind: 1.0,
    place: 1.5,
    at_place: 1.0,
    relation: 1.5,
    beside: 1.0,
    further: 1.0,
    size: 1.0,
    describe: 2.0,
    more: 1.0,
    attribute: 0.7,
}
"""Kinds of questions, with how often each is asked."""


FIRST_LOOKS: dict[Look, float] = {colour: 1.0, kind: 1.0, place: 1.0, at_place: 1.0, size: 1.0, describe: 0.5}
"""Questions about what one shape is or where: the ones that a model should learn to see by."""


def ask_about_picture(rng: random.Random, scene: Scene, looks: Mapping[Look, float] = LOOKS) -> Exchange:
    while True:
        look = rng.choices(tuple(looks), tuple(looks.values()))[0]
        exchange = look(rng, scene)
        if exchange is not None:
            return exchange


FOLLOW_UPS = ("Where is it?", "What colour is it?", "Is it big or small?")


def follow_up(rng: random.Random, scene: Scene, before: Exchange) -> Exchange | None:
    """A question that only the one before explains; None if there is no such question."""
    if before.about is None:
        return None
    topic, what = before.about
    if topic == "count":
        other = Filter(kind=_pick(rng, [shape.kind for shape in scene.shapes], KINDS))
        answer, found = _counted(other, scene), _all(other, scene)
        return Exchange(
            f"And {other.many}?", answer, "follow-up", False, True, ("count", other), rests_on=found
        )
    answers = {"colour": _coloured, "place": _placed, "size": _sized}
    if topic in answers and rng.random() < 0.5:
        other = Filter(kind=_pick(rng, [shape.kind for shape in scene.shapes], KINDS))
        question = f"And the {other.one}?"
        return _about_one(question, answers[topic], scene, "follow-up", (topic, other), fixed=True)
    if len(what.of(scene)) != 1:
        return None
    question, answer_of = rng.choice(
        (("Where is it?", _placed), ("What colour is it?", _coloured), ("Is it big or small?", _sized))
    )
    about, found = ("attribute", what), _all(what, scene)
    return Exchange(question, answer_of(what, scene), "follow-up", True, True, about, rests_on=found)


def no_picture(rng: random.Random, scene: Scene) -> Exchange:
    """A question about a picture that nobody has given."""
    question = ask_about_picture(rng, scene).question
    return Exchange(question, NO_PICTURE, "no picture", True)


# --- answers ------------------------------------------------------------------------------------------


def _about_one(
    question: str,
    answer_of: Callable[[Filter, Scene], str],
    scene: Scene,
    topic: str,
    about: tuple[str, Filter],
    *,
    fixed: bool = False,
) -> Exchange:
    """The answer is from a short list, except where it says how many there are instead."""
    what = about[1]
    answer = answer_of(what, scene)
    closed = not answer.startswith("There are")
    return Exchange(question, answer, topic, closed, fixed, about, rests_on=_all(what, scene))


def _all(what: Filter, scene: Scene) -> tuple[Shape, ...]:
    return tuple(what.of(scene))


def _counted(what: Filter, scene: Scene) -> str:
    n = len(what.of(scene))
    if n == 0:
        return f"There are no {what.many}."
    if n == 1:
        return f"There is one {what.one}."
    return f"There are {number(n)} {what.many}."


def _coloured(what: Filter, scene: Scene) -> str:
    found = what.of(scene)
    colours = {shape.colour for shape in found}
    if len(found) > 1 and len(colours) == 1:
        return f"They are {colours.pop()}."
    return _unclear(what, scene) or f"It is {found[0].colour}."


def _placed(what: Filter, scene: Scene) -> str:
    return _unclear(what, scene) or f"It is {what.of(scene)[0].place}."


def _sized(what: Filter, scene: Scene) -> str:
    return _unclear(what, scene) or f"It is {what.of(scene)[0].size}."


def _unclear(what: Filter, scene: Scene) -> str | None:
    """What to say if there is no such shape, or more than one."""
    found = what.of(scene)
    if not found:
        return f"There is no {what.one}."
    if len(found) > 1:
        return f"There are {number(len(found))} {what.many}."
    return None


# --- what is asked about ----------------------------------------------------------------------------------


def _pick(rng: random.Random, there: list[str], all_names: tuple[str, ...]) -> str:
    """A name that fits the picture more often than not."""
    return rng.choice(there) if rng.random() < 0.75 else rng.choice(all_names)


def _two_names(rng: random.Random, there: list[str], all_names: tuple[str, ...]) -> list[str]:
    first = _pick(rng, there, all_names)
    rest = [name for name in all_names if name != first]
    second = _pick(rng, [name for name in there if name != first] or rest, tuple(rest))
    return rng.sample((first, second), 2)


def _group(rng: random.Random, scene: Scene) -> Filter:
    """Shapes to be counted: by none, one or two of their properties."""
    shape = rng.choice(scene.shapes)
    fields = rng.choice(
        (("kind",), ("kind",), ("colour",), ("kind", "colour"), ("size",), ("size", "kind"), ())
    )
    values = {field: getattr(shape, field) for field in fields}
    if values and rng.random() < 0.3:
        field = rng.choice(sorted(values))
        values[field] = rng.choice({"kind": KINDS, "colour": COLOURS, "size": SIZES}[field])
    return Filter(**values)


def _single(rng: random.Random, scene: Scene, *, with_colour: bool = True, with_size: bool = True) -> Filter:
    """A shape named as briefly as it is clear; now and then one that is not there or not alone."""
    if rng.random() < 0.12:
        return Filter(kind=rng.choice(KINDS))
    shape = rng.choice(scene.shapes)
    names = [Filter(kind=shape.kind)]
    if with_colour:
        names.append(Filter(kind=shape.kind, colour=shape.colour))
    if with_size:
        names.append(Filter(kind=shape.kind, size=shape.size))
    clear = [name for name in names if len(name.of(scene)) == 1]
    return rng.choice(clear or names)


def _name(shape: Shape, scene: Scene) -> str:
    brief = Filter(kind=shape.kind)
    return brief.one if len(brief.of(scene)) == 1 else shape.name


def _two(rng: random.Random, scene: Scene) -> tuple[Shape, Shape] | None:
    """Two shapes that each have a name of their own."""
    clear = [s for s in scene.shapes if len(Filter(kind=s.kind, colour=s.colour).of(scene)) == 1]
    if len(clear) < 2:
        return None
    first, second = rng.sample(clear, 2)
    return first, second


def _level(a: Shape, b: Shape, side: str) -> bool:
    """Whether neither is on that side of the other."""
    return not (SIDES[side](a, b) or SIDES[side](b, a))
