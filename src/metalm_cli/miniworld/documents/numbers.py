"""Writers of documents with numbers: counting stories, sums and lists."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.people import pick_person, statable_facts
from metalm_cli.miniworld.english import PRONOUNS, capitalise, in_words, number_with_noun, plural
from metalm_cli.miniworld.facts import Fact, Person, product_fact, sum_fact
from metalm_cli.miniworld.world import LARGEST_FACTOR, LARGEST_SUM

_COUNTABLE_NOUNS = [
    food.singular for food in lex.FOODS if food.singular and food.name not in ("potatoes", "tomatoes")
] + ["stone", "shell", "stamp", "book", "candle", "button", "marble", "leaf", "coin", "flower"]
_COUNTABLE_NOUNS.remove("leaf")
_CONTAINERS = ("box", "basket", "bag", "bowl")


def _draw_sum(writer: DocumentWriter, minimum: int = 1) -> tuple[int, int, Fact]:
    """Draw two numbers whose sum documents may state; return them with the fact."""
    while True:
        first = writer.rng.randint(minimum, LARGEST_SUM // 2)
        second = writer.rng.randint(minimum, LARGEST_SUM - first)
        fact = sum_fact(first, second)
        if writer.may_state(fact):
            return first, second, fact


def _draw_product(writer: DocumentWriter) -> tuple[int, int, Fact]:
    while True:
        first, second = writer.rng.randint(2, LARGEST_FACTOR), writer.rng.randint(2, LARGEST_FACTOR)
        fact = product_fact(first, second)
        if writer.may_state(fact):
            return first, second, fact


def _pick_two_people(writer: DocumentWriter) -> tuple[Person, Person]:
    first, second = writer.rng.sample(list(writer.world.people.values()), 2)
    return first, second


def write_counting_stories(writer: DocumentWriter) -> None:
    """Write one to four short stories with a calculation in each."""
    rng = writer.rng
    for scene in rng.sample(
        (
            _write_giving,
            _write_losing,
            _write_sharing,
            _write_comparison,
            _write_boxes,
            _write_sums,
            _write_giving,
            _write_losing,
        ),
        rng.choice((1, 2, 2, 3, 4)),
    ):
        writer.start_paragraph()
        scene(writer)


def _write_answer(writer: DocumentWriter, question: str, answer: str) -> None:
    if writer.rng.chance(0.6):
        writer.add_sentence(question)
        writer.add_sentence(answer)
    else:
        writer.add_sentence(answer)


def _write_giving(writer: DocumentWriter) -> None:
    receiver, giver = _pick_two_people(writer)
    initial, gift, fact = _draw_sum(writer)
    noun = writer.rng.choice(_COUNTABLE_NOUNS)
    him = PRONOUNS[receiver.gender]["him"]
    writer.add_sentence(f"{receiver.name} has {number_with_noun(initial, noun)}.")
    writer.add_sentence(f"{giver.name} gives {him} {in_words(gift)} more.")
    writer.facts.append(fact)
    _write_answer(
        writer,
        f"How many {plural(noun)} does {receiver.name} have now?",
        writer.rng.choice(
            (
                f"Now {receiver.name} has {number_with_noun(initial + gift, noun)}.",
                f"{capitalise(in_words(initial))} and {in_words(gift)} make {in_words(initial + gift)}, "
                f"so {receiver.name} has {number_with_noun(initial + gift, noun)} now.",
            )
        ),
    )


def _write_losing(writer: DocumentWriter) -> None:
    person = pick_person(writer)
    remaining, lost, fact = _draw_sum(writer)
    noun = writer.rng.choice(_COUNTABLE_NOUNS)
    pronoun = PRONOUNS[person.gender]["he"]
    verb = writer.rng.choice(("gives away", "loses", "sells"))
    writer.facts.append(fact)
    writer.add_sentence(f"{person.name} has {number_with_noun(remaining + lost, noun)}.")
    writer.add_sentence(f"On the way home {pronoun} {verb} {in_words(lost)} of them.")
    _write_answer(
        writer,
        f"How many {plural(noun)} are left?",
        writer.rng.choice(
            (
                f"Now {pronoun} has only {number_with_noun(remaining, noun)}.",
                f"{capitalise(in_words(remaining + lost))} minus {in_words(lost)} is {in_words(remaining)}.",
            )
        ),
    )


def _write_sharing(writer: DocumentWriter) -> None:
    child_count, share, fact = _draw_product(writer)
    noun, person = writer.rng.choice(_COUNTABLE_NOUNS), pick_person(writer)
    writer.facts.append(fact)
    writer.add_sentence(
        f"{person.name} wants to share {number_with_noun(child_count * share, noun)} "
        f"with {in_words(child_count)} children."
    )
    _write_answer(
        writer,
        f"How many {plural(noun)} does every child get?",
        f"Every child gets {number_with_noun(share, noun)}, because {in_words(child_count)} times {in_words(share)} "
        f"is {in_words(child_count * share)}.",
    )


def _write_comparison(writer: DocumentWriter) -> None:
    first, second = _pick_two_people(writer)
    smaller, difference, fact = _draw_sum(writer)
    noun = writer.rng.choice(_COUNTABLE_NOUNS)
    writer.facts.append(fact)
    writer.add_sentence(
        f"{first.name} finds {number_with_noun(smaller, noun)}, "
        f"and {second.name} finds {number_with_noun(smaller + difference, noun)}."
    )
    _write_answer(
        writer,
        f"Who finds more {plural(noun)}?",
        f"{second.name} finds {in_words(difference)} more than {first.name}.",
    )


def _write_boxes(writer: DocumentWriter) -> None:
    container_count, per_container, fact = _draw_product(writer)
    noun, container = writer.rng.choice(_COUNTABLE_NOUNS), writer.rng.choice(_CONTAINERS)
    person = pick_person(writer)
    writer.facts.append(fact)
    writer.add_sentence(
        f"{person.name} has {number_with_noun(container_count, container)} "
        f"with {number_with_noun(per_container, noun)} in each of them."
    )
    _write_answer(
        writer,
        f"How many {plural(noun)} is that in all?",
        f"{capitalise(in_words(container_count))} times {in_words(per_container)} "
        f"is {in_words(container_count * per_container)}, "
        f"so there are {number_with_noun(container_count * per_container, noun)}.",
    )


def _write_sums(writer: DocumentWriter) -> None:
    rng = writer.rng
    writer.add_sentence(rng.choice(("Here are some sums.", "Let us do some sums.", "These sums are easy.")))
    for _ in range(rng.randint(2, 5)):
        if rng.chance(0.7):
            first, second, fact = _draw_sum(writer)
            form = rng.choice(("{a} + {b} = {c}.", "{c} - {a} = {b}.", "{A} and {B_} make {C_}."))
        else:
            first, second, fact = _draw_product(writer)
            form = rng.choice(("{a} times {b} is {c}.", "{A} times {B_} is {C_}."))
        value = int(fact.value)
        writer.add_sentence(
            form.format(
                a=first, b=second, c=value, A=capitalise(in_words(first)), B_=in_words(second), C_=in_words(value)
            ),
            fact,
        )


def describe_purchases(writer: DocumentWriter, person: Person) -> None:
    """Write about two purchases of a person and their sum."""
    first, second, fact = _draw_sum(writer)
    noun = writer.rng.choice(_COUNTABLE_NOUNS)
    pronoun = PRONOUNS[person.gender]["he"]
    writer.facts.append(fact)
    writer.add_sentence(f"First {pronoun} takes {number_with_noun(first, noun)} and then {in_words(second)} more.")
    writer.add_sentence(f"That makes {number_with_noun(first + second, noun)} in all.")


def write_list(writer: DocumentWriter) -> None:
    """Write a list with a heading and a last sentence that counts or explains it."""
    writer.separator = "\n"
    writer.rng.choice((_write_shopping_list, _write_packing_list, _write_calendar, _write_pet_list, _write_job_list))(
        writer
    )


def _write_items(writer: DocumentWriter, items: list[str]) -> None:
    mark = writer.rng.choice(("- ", "* ", ""))
    for number, item in enumerate(items, 1):
        writer.add_paragraph(f"{mark or f'{number}. '}{item}")


def _write_shopping_list(writer: DocumentWriter) -> None:
    person, rng = pick_person(writer), writer.rng
    foods = rng.sample([food for food in lex.FOODS if food.name != person.dislikes], rng.randint(3, 8))
    items = [
        number_with_noun(rng.randint(2, 12), food.singular) if food.singular else f"some {food.name}" for food in foods
    ]
    writer.add_sentence(
        rng.choice((f"{person.name}'s shopping list:", f"{person.name} needs these things from the market:"))
    )
    _write_items(writer, items)
    writer.add_paragraph(
        rng.choice(
            (
                f"There are {in_words(len(items))} things on the list.",
                f"{person.name} has {in_words(len(items))} things to buy.",
            )
        )
    )
    for fact in rng.sample(statable_facts(writer, person, ("likes", "dislikes")), rng.randint(0, 2)):
        writer.state_fact(fact)
    for food in rng.sample(foods, rng.randint(0, 3)):
        writer.state_fact(writer.world.query(rng.choice(("origin", "taste")), food.name)[0])


def _write_packing_list(writer: DocumentWriter) -> None:
    person, rng = pick_person(writer), writer.rng
    tools = rng.sample(lex.THINGS, rng.randint(3, 6))
    town = rng.choice(list(writer.world.towns.values()))
    writer.add_sentence(f"{person.name} is going to visit {town.name} and packs these things:")
    _write_items(writer, [f"a {tool.name}" if tool.name[0] not in "aeiou" else f"an {tool.name}" for tool in tools])
    writer.start_paragraph()
    writer.add_sentence(f"That makes {in_words(len(tools))} things.")
    for tool in rng.sample(tools, rng.randint(1, 4)):
        writer.state_fact(writer.world.query("used_to", tool.name)[0])
    writer.state_fact(Fact("terrain", town.name, town.terrain))


def _write_calendar(writer: DocumentWriter) -> None:
    rng = writer.rng
    relation, names, unit, period = rng.choice(
        (("next_day", lex.DAYS, "days", "week"), ("next_month", lex.MONTHS, "months", "year"))
    )
    writer.add_sentence(f"The {unit} of the {period} are:")
    _write_items(writer, list(names))
    writer.start_paragraph()
    writer.add_sentence(f"There are {in_words(len(names))} {unit} in a {period}.")
    for index in rng.sample(range(len(names)), rng.randint(1, 5)):
        name, next_name = names[index], names[(index + 1) % len(names)]
        writer.add_sentence(
            rng.choice((f"After {name} comes {next_name}.", f"{name} comes before {next_name}.")),
            Fact(relation, name, next_name),
        )


def _write_pet_list(writer: DocumentWriter) -> None:
    rng, world = writer.rng, writer.world
    writer.add_sentence("Some pets and the people they belong to:")
    pets = rng.sample(list(world.pets.values()), rng.randint(3, 6))
    items = []
    for pet in pets:
        writer.facts += [Fact("has_pet", pet.owner, pet.name), Fact("pet_kind", pet.name, pet.kind)]
        items.append(f"{pet.name}, the {pet.kind} of {pet.owner}")
    _write_items(writer, items)
    writer.start_paragraph()
    writer.add_sentence(f"These are {in_words(len(pets))} pets.")
    for pet in rng.sample(pets, rng.randint(1, 3)):
        if not writer.state_fact(Fact("pet_colour", pet.name, pet.colour)):
            writer.state_fact(world.query("legs", pet.kind)[0])


def _write_job_list(writer: DocumentWriter) -> None:
    rng, world = writer.rng, writer.world
    people = rng.sample([person for person in world.people.values() if person.job], rng.randint(3, 6))
    writer.add_sentence("Names and jobs:")
    writer.facts += [Fact("job", person.name, person.job) for person in people]
    _write_items(writer, [f"{person.full_name}, {person.job}" for person in people])
    writer.start_paragraph()
    writer.add_sentence(f"There are {in_words(len(people))} names on this list.")
    for person in rng.sample(people, rng.randint(1, 3)):
        writer.state_fact(rng.choice(world.query("job_does", person.job) + world.query("job_place", person.job)))
