"""Document writer: collects sentences, paragraphs, and the facts that they state."""

from __future__ import annotations

from functools import lru_cache

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import (
    KIN,
    PRONOUNS,
    capitalise,
    clock_time,
    in_words,
    plural,
    third_person,
    with_article,
)
from metalm_cli.miniworld.facts import RELATIONS, Fact, Person
from metalm_cli.miniworld.phrases import KIND_PHRASES, NAME_PHRASES, PERSON_PHRASES
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.world import World

Slots = dict[str, str]
_PLURAL_FOODS = frozenset(food.name for food in lex.FOODS if food.singular)
_KIN_ROLES = {
    "parent_of": ("parent", "child"),
    "sibling": ("sibling", "sibling"),
    "grandparent_of": ("grandparent", "child"),
}


@lru_cache(maxsize=1024)
def _person_slots(name: str, gender: str, pronoun: bool) -> Slots:
    pronouns = PRONOUNS[gender]
    spouse = "husband" if gender == "she" else "wife"
    if pronoun:
        return pronouns | {
            "N": pronouns["He"], "n": pronouns["he"], "m": pronouns["him"],
            "Ns": pronouns["His"], "ns": pronouns["his"], "spouse": spouse,
        }  # fmt: skip
    return pronouns | {"N": name, "n": name, "m": name, "Ns": f"{name}'s", "ns": f"{name}'s", "spouse": spouse}


@lru_cache(maxsize=1024)
def _kind_slots(kind: str, pronoun: bool) -> Slots:
    singular, plural_form = with_article(kind), plural(kind)
    slots = {"A": capitalise(singular), "a": singular, "Ps": capitalise(plural_form), "ps": plural_form, "s": kind}
    return slots | {"A": "It", "Ps": "They"} if pronoun else slots


def place_name(building: str) -> str:
    """Return ``the library in Oakton`` for ``Oakton library``."""
    town, kind = building.split(" ", 1)
    return f"the {kind} in {town}"


def fact_value_text(fact: Fact) -> str:
    """Return the value of a fact in the form that running text uses."""
    relation, value = fact.relation, fact.value
    if relation in ("wakes_at", "opens_at"):
        return in_words(int(value))
    if relation == "event_hour":
        return clock_time(int(value))
    if relation == "legs":
        return in_words(int(value)) if value != "0" else "no"
    if relation == "attends":
        return f"school in {value.split(' ')[0]}"
    if relation == "next_to":
        return f"the {value.split(' ', 1)[1]}"
    if relation == "event_place":
        return place_name(value)
    if relation == "earlier_than":
        return f"the {value}"
    return value


class DocumentWriter:
    """Writer of one document: collects its sentences and the facts that they state.

    Every sentence is added together with the facts of the world that it states: a false fact raises an error at
    once, and a sentence that states a held-out fact is left out.

    Args:
        world: The world that the document describes.
        rng: Source of all random choices.
    """

    __slots__ = ("facts", "held_out_flags", "paragraphs", "rng", "separator", "topic", "world")

    def __init__(self, world: World, rng: SeededRandom) -> None:
        self.world = world
        self.held_out_flags = world.held_out_flags
        self.rng = rng
        self.facts: list[Fact] = []
        self.paragraphs: list[list[str]] = [[]]
        self.separator = "\n\n"
        """Text between two paragraphs."""
        self.topic = ""
        """The person or thing that a pronoun at the start of the next sentence refers to; empty: not defined."""

    def may_state(self, *facts: Fact) -> bool:
        """Return whether none of the facts is held out.

        Raises:
            KeyError: If a fact is false.
        """
        flags = self.held_out_flags
        return not any(map(flags.__getitem__, facts))

    def add_sentence(self, sentence: str, *facts: Fact) -> bool:
        """Add a sentence that states ``facts``; if one of them is held out, add nothing and return False."""
        if facts:
            if not self.may_state(*facts):
                return False
            self.facts.extend(facts)
        self.paragraphs[-1].append(sentence)
        self.topic = ""
        return True

    def start_paragraph(self) -> None:
        """Start a new paragraph."""
        if self.paragraphs[-1]:
            self.paragraphs.append([])
        self.topic = ""

    def add_paragraph(self, sentence: str, *facts: Fact) -> bool:
        """Add a sentence in a paragraph of its own; return whether it was added."""
        self.start_paragraph()
        return self.add_sentence(sentence, *facts)

    def word_count(self) -> int:
        """Return the number of words so far."""
        return sum(sentence.count(" ") + 1 for sentences in self.paragraphs for sentence in sentences)

    def text(self) -> str:
        """Return the text of the document."""
        return self.separator.join([" ".join(sentences) for sentences in self.paragraphs if sentences])

    def state_fact(self, fact: Fact, reverse: bool = False) -> bool:
        """State a fact in one of its relation's wordings, unless it is held out; return whether it is stated.

        Args:
            fact: A fact of the world.
            reverse: Make the value the subject of the sentence.
        """
        if self.held_out_flags[fact]:
            return False
        subject = fact.value if reverse else fact.subject
        kind = RELATIONS[fact.relation].subject
        if kind == "person":
            self._state_person_fact(fact, subject, reverse)
        elif fact.relation in KIND_PHRASES:
            self._state_kind_fact(fact, subject, reverse)
        else:
            self._state_name_fact(fact, subject, reverse)
        self.facts.append(fact)
        return True

    def state_fact_about(self, subject: str, fact: Fact) -> bool:
        """State a fact with this person as the subject of the sentence, be it the fact's subject or its value."""
        if fact.subject == subject or not RELATIONS[fact.relation].symmetric:
            return self.state_fact(fact, reverse=fact.subject != subject)
        if self.held_out_flags[fact]:
            return False
        self._state_person_fact(Fact(fact.relation, fact.value, fact.subject), subject, False)
        self.facts.append(fact)
        return True

    def in_first_person(self, speaker: str, fact: Fact) -> str:
        """Return a first-person statement of the fact, spoken by its subject (by either person if it is symmetric)."""
        if fact.subject != speaker:
            fact = Fact(fact.relation, fact.value, fact.subject)
        return self.rng.choice(PERSON_PHRASES[fact.relation].first_person_statements).format_map(
            self.person_slots(fact, speaker, False)
        )

    def question_to_subject(self, fact: Fact) -> str:
        """Return a question in the second person that asks the fact's subject for the value."""
        return self.rng.choice(PERSON_PHRASES[fact.relation].questions_to_subject)

    def question_and_answer(self, fact: Fact) -> tuple[str, str]:
        """Return a question whose answer is the fact's value, and the short answer."""
        kind = RELATIONS[fact.relation].subject
        if kind == "person":
            phrasing, slots = PERSON_PHRASES[fact.relation], self.person_slots(fact, fact.subject, False)
        elif fact.relation in KIND_PHRASES:
            phrasing, slots = KIND_PHRASES[fact.relation], self._kind_slots(fact, fact.subject, False)
        else:
            phrasing, slots = NAME_PHRASES[fact.relation], self._name_slots(fact, fact.subject, False)
        return self.rng.choice(phrasing.questions).format_map(slots), phrasing.short_answer.format_map(slots)

    def claim_clause(self, fact: Fact) -> str:
        """Return a fact about a person, true or false, as a clause."""
        return PERSON_PHRASES[fact.relation].claim.format_map(self.person_slots(fact, fact.subject, False))

    def _state_person_fact(self, fact: Fact, name: str, reverse: bool) -> None:
        phrasing = PERSON_PHRASES[fact.relation]
        template = self.rng.choice(phrasing.reverse_statements if reverse else phrasing.statements)
        pronoun = self.topic == name and (" and {o}" not in template) and self.rng.chance(0.75)
        self.paragraphs[-1].append(template.format_map(self.person_slots(fact, name, pronoun, reverse)))
        people = self.world.people
        other = people.get(fact.subject if reverse else fact.value)
        self.topic = "" if other is not None and other.gender == people[name].gender else name

    def _state_kind_fact(self, fact: Fact, kind: str, reverse: bool) -> None:
        phrasing = KIND_PHRASES[fact.relation]
        template = self.rng.choice(phrasing.reverse_statements if reverse else phrasing.statements)
        topic = kind + (" one" if template.startswith("{A}") else " many" if template.startswith("{Ps}") else "")
        pronoun = self.topic == topic and RELATIONS[fact.relation].subject != "job" and self.rng.chance(0.6)
        self.paragraphs[-1].append(template.format_map(self._kind_slots(fact, kind, pronoun, reverse)))
        self.topic = "" if RELATIONS[fact.relation].value == "animal" else topic

    def _state_name_fact(self, fact: Fact, name: str, reverse: bool) -> None:
        phrasing = NAME_PHRASES[fact.relation]
        template = self.rng.choice(phrasing.reverse_statements if reverse else phrasing.statements)
        pronoun = self.topic == name and template.startswith("{S}") and self.rng.chance(0.6)
        self.paragraphs[-1].append(template.format_map(self._name_slots(fact, name, pronoun, reverse)))
        names_another_subject = RELATIONS[fact.relation].value in ("town", "building", "event")
        is_unambiguous = template.startswith(("{S}", "The ")) and not (
            names_another_subject and not fact.relation.startswith(("has_", "event_"))
        )
        self.topic = name if is_unambiguous else ""

    def person_slots(self, fact: Fact, name: str, pronoun: bool, reverse: bool = False) -> Slots:
        """Return the values of the slots in phrases about a person."""
        people = self.world.people
        person: Person = people[name]
        value = fact.subject if reverse else fact_value_text(fact)
        slots = _person_slots(name, person.gender, pronoun) | {"o": value, "O": capitalise(value)}
        if fact.relation in ("job", "owns"):
            slots["ao"] = with_article(value)
            slots["AO"] = capitalise(slots["ao"])
        roles = _KIN_ROLES.get(fact.relation)
        if roles is not None:
            own_role, other_role = roles[::-1] if reverse else roles
            slots["kin"] = KIN[person.gender][own_role]
            slots["kin_o"] = KIN[people[value].gender][other_role]
        return slots

    def _kind_slots(self, fact: Fact, kind: str, pronoun: bool, reverse: bool = False) -> Slots:
        value = fact.subject if reverse else fact_value_text(fact)
        relation = fact.relation
        slots = _kind_slots(kind, pronoun) | {"o": value, "O": capitalise(value)}
        if relation == "sound":
            slots["os"] = third_person(value)
        elif relation in ("baby", "bigger_than", "job_tool"):
            slots["os"] = plural(value)
            slots["ao"] = with_article(value)
            slots["AO"] = capitalise(slots["ao"])
        return slots

    def _name_slots(self, fact: Fact, name: str, pronoun: bool, reverse: bool = False) -> Slots:
        kind = RELATIONS[fact.relation].subject
        value = fact.subject if reverse else fact_value_text(fact)
        subject = name
        if kind == "building":
            subject = f"the {name.split(' ', 1)[1]}"
        elif kind == "event":
            subject = f"the {name}"
            if reverse:
                value = f"the {value}"
        is_plural = name in _PLURAL_FOODS
        slots = {"s": subject, "S": capitalise(subject), "o": value, "O": capitalise(value)}
        slots |= (
            {"be": "are", "taste": "taste", "do": "do"} if is_plural else {"be": "is", "taste": "tastes", "do": "does"}
        )
        if pronoun:
            slots["S"] = "They" if is_plural else "It"
        if fact.relation in ("has_building", "pet_kind"):
            slots["ao"] = with_article(value)
            slots["AO"] = capitalise(slots["ao"])
        return slots
