"""Labels of acceptability and sentiment are correct, checked by independent patterns."""

from __future__ import annotations

import re
from collections import Counter

from metalm_cli.miniworld import lexicon
from metalm_cli.miniworld.tasks import task_rows


def rows(task: str) -> list[dict]:
    return [row for split in ("train", "validation", "test") for row in task_rows.rows(task, split)]


# -- well-formed sentences --------------------------------------------------------------------------------------------

_WHO = r"(?:[A-Z]\w+)"
_MANY = r"(?:[Tt]he (?:neighbours|children|people next door)|(?:[Hh]is|[Hh]er) friends|[Tt]wo of (?:his|her) friends)"
_NOUN = rf"(?:{'|'.join((*lexicon.BUILDINGS, *(thing.name for thing in lexicon.THINGS)))})"
_AN = r"(?:a [^aeiou ]\w*|an [aeiou]\w*)"
_TIME = r"(?:every day|on Sunday|in the morning|in summer|after dinner|today)"
_END = r"(?:in [A-Z]\w+|from [A-Z]\w+|an? \w+|\w+ hair|very \w+|[\w ]+)"
_ONE_VERB = r"(?:lives|likes|enjoys|eats|owns|has|is|comes)"
_MANY_VERB = r"(?:live|like|enjoy|eat|own|have|are|come)"
_PURPOSE = rf"(?:{'|'.join(thing.purpose for thing in lexicon.THINGS)})"
_VERB = r"(?:wants|hopes|likes|has|needs)"
_MEAL = r"(?:\w+)"
_NUMBER = r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
WELL_FORMED = (
    rf"{_WHO} {_ONE_VERB} {_END},? (?:and|but|while) {_MANY} {_MANY_VERB} {_END}",
    rf"{_MANY} {_MANY_VERB} {_END},? (?:and|but|while) {_WHO} {_ONE_VERB} {_END}",
    rf"{_WHO} sees {_AN} and {_AN} in the picture",
    rf"In {_WHO} {_WHO} draws {_AN} and then {_AN}",
    rf"{_WHO} and {_WHO} talk about {_AN} and {_AN} in a story",
    rf"{_WHO} has one \w+(?<!s), and {_WHO} has {_NUMBER} \w+s",
    rf"On the table there are {_NUMBER} \w+s and only one \w+(?<!s)",
    rf"{_WHO} buys {_NUMBER} \w+s, but {_WHO} buys only one \w+(?<!s)",
    rf"{_WHO} goes to the {_NOUN} in {_WHO} {_TIME}",
    rf"{_WHO} meets {_WHO} in front of the {_NOUN} in {_WHO}",
    rf"From the {_NOUN} in {_WHO} {_WHO} walks home",
    rf"{_WHO} has a \w+ {_NOUN} made of \w+",
    rf"There is a \w+ {_NOUN} in {_WHO}'s house",
    rf"{_WHO} gives the \w+ {_NOUN} to {_WHO} {_TIME}",
    rf"{_WHO} looks for the \w+ {_NOUN} in the shed",
    rf"{_WHO} (?:lives in|walks to) {_WHO} with {_WHO}",
    rf"{_WHO} comes from {_WHO} every summer",
    rf"{_WHO} works with {_WHO} until the evening",
    rf"{_WHO} sits beside {_WHO} at the table",
    rf"{_WHO} waits for {_WHO} in the garden",
    rf"When {_WHO} is at home, (?:he|she) often calls, and {_WHO} thanks (?:him|her) for it",
    rf"(?i:{_TIME}) (?:he|she) helps {_WHO}, and {_WHO} helps (?:him|her) too",
    rf"At the {_NOUN} (?:he|she) sees {_WHO}, but {_WHO} does not see (?:him|her) there",
    rf"If (?:he|she) needs help, {_WHO} is glad to help (?:him|her) in the garden",
    rf"{_WHO} (?:eats|buys) {_MEAL} (?:for dinner|at the market in {_WHO})",
    rf"{_WHO} often plays chess with {_WHO}",
    rf"{_WHO} never eats {_MEAL} in the evening",
    rf"{_WHO} likes [\w ]+ing(?: \w+| the \w+)? more than anything else",
    rf"{_WHO} often meets {_WHO} in {_WHO}",
    rf"{_WHO} {_VERB} to {_PURPOSE}(?: {_TIME}|, and {_WHO} helps)",
    rf"{_WHO} does not like {_MEAL}",
    rf"{_WHO} will not eat {_MEAL} {_TIME}",
    rf"{_WHO} and {_WHO} do not live in {_WHO}",
    rf"{_WHO} did not see {_WHO} from there",
    rf"Where does {_WHO} live now",
    rf"What does {_WHO} like to eat {_TIME}",
    rf"How old is {_WHO} now",
    rf"When does {_WHO} get up on Sunday",
    rf"Why does {_WHO} never eat {_MEAL}",
    f"Which book does {_WHO} read to {_WHO}",
)
_COLOURED = re.compile(r"\b(?:a|the) (\w+) (?:\w+)(?= made of| in \w+'s house| to [A-Z]| in the shed)")


def well_formed(sentence: str) -> bool:
    if not any(re.fullmatch(pattern, sentence.rstrip(".?")) for pattern in WELL_FORMED):
        return False
    coloured = _COLOURED.search(sentence)
    return coloured is None or coloured[1] in lexicon.COLOURS


def test_grammar():
    for row in rows("grammar"):
        assert well_formed(row["sentence"]) == (row["label"] == "acceptable"), row


# -- praise and blame -------------------------------------------------------------------------------------------------

PRAISE = {
    "friendly",
    "helpful",
    "polite",
    "fresh",
    "delicious",
    "tasty",
    "clean",
    "bright",
    "warm",
    "soft",
    "dry",
    "funny",
    "exciting",
    "wonderful",
    "comfortable",
    "lovely",
    "well",
}
BLAME = {
    "rude",
    "unfriendly",
    "bored",
    "bad",
    "awful",
    "tasteless",
    "dirty",
    "dark",
    "cold",
    "torn",
    "wet",
    "boring",
    "dull",
    "terrible",
    "uncomfortable",
    "broken",
    "ugly",
    "badly",
}
VERDICTS = {
    1: r"want to come back soon|friends to go there|a very good day|can only praise|am glad|liked it a lot",
    -1: r"not want to come back|friends not to go|not a good day|cannot praise|am sorry|not like it",
}


def sentiment(text: str) -> int:
    """Return the sentiment (1, -1) of the closing judgement, else of all clauses with negation; 0: undetermined."""
    for side, pattern in VERDICTS.items():
        if re.search(pattern, text):
            return side
    sides = {sentiment_of_clause(part) for part in re.split(r"(?:,? and |\. )", text.split(" ", 1)[1])} - {0}
    return sides.pop() if len(sides) == 1 else 0


def sentiment_of_clause(part: str) -> int:
    words = set(re.findall(r"\w+", part.lower()))
    nothing = re.search(r"nothing (good|bad) about", part)
    if nothing:
        return -1 if nothing[1] == "good" else 1
    side = bool(words & PRAISE) - bool(words & BLAME)
    return -side if words & {"not", "nobody"} else side


def test_reviews():
    kinds: Counter[str] = Counter()
    for row in rows("reviews"):
        opening, body = re.match(r"(.+? in [A-Z]\w+(?: with \w+)?\.) (.+)", row["text"]).groups()
        assert sentiment(f"- {body}") == {"positive": 1, "negative": -1}[row["label"]], row
        kinds["mixed" if re.search(r"Although|Still|It is true|, but ", body) else "plain"] += 1
        kinds["denied" if re.search(r"\bnot \w+|nobody|nothing", body) else "said"] += 1
        assert opening.count(".") == 1
    assert min(kinds.values()) > 400, kinds


def test_checkers_distinguish_right_from_wrong():
    assert well_formed("Ada lives in Oakton, and her friends live in Harwell.")
    assert not well_formed("Ada live in Oakton, and her friends lives in Harwell.")
    assert sentiment("- The soup was not fresh, and the cook was rude.") == -1
    assert sentiment("- The soup was not bad.") == 1
