"""Pictures of the miniature world show their scenes, and their texts are true."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.english import in_words
from metalm_cli.miniworld.pictures import picture_rows
from metalm_cli.miniworld.pictures.draw import BACKGROUND_COLOURS, COLOURS_RGB, SIZE, draw_scene
from metalm_cli.miniworld.pictures.scene import COMBINATIONS, GROUPS, KINDS, PLACES, SPATIAL_RELATIONS, Item, Scene

SPLITS = ("train", "validation", "test")
NUMBERS = {in_words(number): number for number in range(5)}
COLOURS = "|".join(COLOURS_RGB)
THING = rf"an? ({COLOURS}) ({'|'.join(KINDS)})"
PLACE = "|".join(PLACES)


def all_rows(task: str) -> list[dict]:
    return [row for split in SPLITS for row in picture_rows.scene_rows(task, split)]


def things(scene: Scene) -> set[tuple[str, str]]:
    return {(item.colour, item.kind) for item in scene.items}


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", picture_rows.TASKS)
def test_sizes_and_no_picture_with_the_same_words_twice(task):
    rows_by_split = {split: picture_rows.scene_rows(task, split) for split in SPLITS}
    assert 2000 <= len(rows_by_split["train"]) <= 2008
    assert all(200 <= len(rows_by_split[split]) <= 208 for split in SPLITS[1:])
    texts = [repr(row) for split_rows in rows_by_split.values() for row in split_rows]
    assert len(set(texts)) == len(texts)


def test_rows_contain_png_images():
    for task in picture_rows.TASKS:
        row = picture_rows.rows(task, "validation")[0]
        assert len(row["scenes"]) == len(picture_rows.IMAGE_COLUMNS[task])
        for name in picture_rows.IMAGE_COLUMNS[task]:
            image = Image.open(io.BytesIO(row[name]["bytes"]))
            assert (image.size, image.mode, image.format) == ((SIZE, SIZE), "RGB", "PNG")
            assert len(row[name]["bytes"]) < 5000
    row["label"] = "spoilt"
    assert picture_rows.rows(task, "validation")[0]["label"] != "spoilt"


def test_other_processes_make_the_same_rows():
    code = (
        "import hashlib, sys; from metalm_cli.miniworld.pictures import picture_rows; "
        "rows = [picture_rows.rows(task, 'test') for task in picture_rows.TASKS]; "
        "print(hashlib.sha256(repr(rows).encode()).hexdigest()); "
        "print([name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    rows = [picture_rows.rows(task, "test") for task in picture_rows.TASKS]
    assert run.stdout.split("\n")[:2] == [hashlib.sha256(repr(rows).encode()).hexdigest(), "[]"]


@pytest.mark.parametrize(("task", "split"), [("caption", "train"), ("captions", "dev")])
def test_unknown_names_are_rejected(task, split):
    with pytest.raises(MetalmError, match=r"has no (pictures for caption|split dev)"):
        picture_rows.rows(task, split)


def test_combinations_asked_about_are_held_out():
    """Each held-out split has two colours of each kind, each colour equally often; no other split shows them."""
    for split, per_colour in (("train", 12), ("validation", 4), ("test", 4)):
        assert set(Counter(colour for colour, _ in COMBINATIONS[split]).values()) == {per_colour}
        assert set(Counter(kind for _, kind in COMBINATIONS[split]).values()) == {per_colour // 2}
    shown_by_split = {split: set() for split in SPLITS}
    for task, split in itertools.product(picture_rows.TASKS, SPLITS):
        for row in picture_rows.scene_rows(task, split):
            combinations = set().union(*map(things, row["scenes"]))
            shown_by_split[split] |= combinations
            if task == "captions" and split != "train":
                assert combinations & set(COMBINATIONS[split])
    assert shown_by_split["train"] == set(COMBINATIONS["train"])
    for split in SPLITS[1:]:
        assert shown_by_split[split] <= {*COMBINATIONS[split], *COMBINATIONS["train"]}
        assert shown_by_split[split] >= set(COMBINATIONS[split])


def test_places_and_kinds_are_unique_in_a_scene():
    for row in itertools.chain.from_iterable(map(all_rows, picture_rows.TASKS)):
        for scene in row["scenes"]:
            places = [item.place for item in scene.items] + ([] if scene.curtain is None else [scene.curtain])
            assert len(set(places)) == len(places)
            assert len({item.kind for item in scene.items}) == len(scene.items)
            assert scene.items or scene.curtain is not None


# -- drawing ----------------------------------------------------------------------------------------------------------


def quarter(pixels: np.ndarray, place: int) -> np.ndarray:
    half = SIZE // 2
    return pixels[half * (place // 2) :, half * (place % 2) :][:half, :half].reshape(-1, 3).astype(int)


def dominant_colour(pixels: np.ndarray, background: int) -> str | None:
    """Return the colour of most pixels that are neither background nor outline."""
    counts = {name: int((np.abs(pixels - rgb).max(axis=1) < 12).sum()) for name, rgb in COLOURS_RGB.items()}
    free = int((np.abs(pixels - BACKGROUND_COLOURS[background]).max(axis=1) < 3).sum())
    return None if free == len(pixels) else max(counts, key=lambda name: counts[name])


def test_pictures_show_the_colours_at_the_places():
    for row in picture_rows.scene_rows("explanations", "test") + picture_rows.scene_rows("captions", "validation"):
        scene = row["scenes"][0]
        pixels = np.asarray(draw_scene(scene))
        for place in range(4):
            item = scene.item_at(place)
            if place != scene.curtain:
                colour = dominant_colour(quarter(pixels, place), scene.background)
                assert colour == (item.colour if item else None), scene


def test_kinds_are_distinguishable():
    """The outline of a thing is closer to another drawing of its kind than to a drawing of any other kind."""

    def outline(kind: str, seed: int) -> np.ndarray:
        pixels = quarter(np.asarray(draw_scene(Scene((Item("red", kind, 0),), None, 0, seed))), 0)
        mask = (np.abs(pixels - BACKGROUND_COLOURS[0]).max(axis=1) > 20).reshape(SIZE // 2, SIZE // 2)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        crop = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        return np.concatenate(
            [np.asarray(crop.resize((16, 16))).ravel(), [4 * crop.width / crop.height]]  # and the aspect ratio
        ).astype(float)

    known_outlines = {kind: [outline(kind, seed) for seed in range(3)] for kind in KINDS}
    for kind in KINDS:
        for seed in range(3, 7):
            features = outline(kind, seed)
            nearest = min(
                KINDS,
                key=lambda candidate: min(float(np.abs(features - other).sum()) for other in known_outlines[candidate]),
            )
            assert nearest == kind, (kind, nearest)


# -- truth ------------------------------------------------------------------------------------------------------------


def is_related(scene: Scene, relation: str, first_kind: str, second_kind: str) -> bool:
    first, second = scene.item_of_kind(first_kind), scene.item_of_kind(second_kind)
    return first is not None and second is not None and SPATIAL_RELATIONS[relation](first.place, second.place)


def test_captions_are_true_and_complete():
    for row in all_rows("captions"):
        (scene,) = row["scenes"]
        for caption in row["captions"]:
            assert set(re.findall(THING, caption[0].lower() + caption[1:])) == things(scene), caption
            assert re.fullmatch(r"[A-Z][\w ,]+\.", caption)
        spots = re.findall(rf"{THING} ({PLACE})", row["captions"][1])
        assert spots == [(item.colour, item.kind, PLACES[item.place]) for item in scene.items]
        relation_match = re.search(rf"{THING} is ({'|'.join(SPATIAL_RELATIONS)}) {THING}", row["captions"][2].lower())
        assert (relation_match is None) == (len(scene.items) == 1)
        if relation_match is not None:
            assert is_related(scene, relation_match[3], relation_match[2], relation_match[5])


def expected_answer(scene: Scene, question: str) -> str:
    """Return the answer, computed from the words of the question."""
    kinds = re.findall(rf"\b({'|'.join(KINDS)})\b", question)
    relation = next((name for name in SPATIAL_RELATIONS if f" {name} " in question), "")
    place = next((name for name in PLACES if name in question), "")
    if question.startswith("How many"):
        group = re.search(rf"shapes|animals|{COLOURS}", question)[0]
        return in_words(sum(item.colour == group or item.kind in GROUPS.get(group, ()) for item in scene.items))
    if question.startswith("Where"):
        return PLACES[scene.item_of_kind(kinds[0]).place]
    if "colour" in question:
        return scene.item_of_kind(kinds[0]).colour
    if place:
        kind = scene.item_at(PLACES.index(place)).kind
    elif question.startswith("What is"):
        (kind,) = (item.kind for item in scene.items if is_related(scene, relation, item.kind, kinds[0]))
    elif relation:
        assert all(scene.item_of_kind(kind) for kind in kinds)
        return "yes" if is_related(scene, relation, *kinds) else "no"
    else:
        return "yes" if re.search(THING, question).groups() in things(scene) else "no"
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def test_answers_are_correct():
    for row in all_rows("questions"):
        assert row["answer"] == expected_answer(row["scenes"][0], row["question"]), row


def is_statement_true(left: Scene, right: Scene, statement: str) -> bool:
    """Return whether a statement is true, computed from its words."""
    thing = re.search(THING, statement)
    if thing is not None:
        in_picture = [thing.groups() in things(scene) for scene in (left, right)]
        if "Both" in statement or "each" in statement:
            return all(in_picture)
        if "one of" in statement:
            return sum(in_picture) == 1
        side = "left" not in statement
        return in_picture[side] and not in_picture[not side]
    group = re.search("shapes|animals", statement)
    if group is not None:
        counts = [sum(item.kind in GROUPS[group[0]] for item in scene.items) for scene in (left, right)]
        return counts[0] > counts[1] if statement.index("left") < statement.index("right") else counts[0] < counts[1]
    kind = re.search("|".join(KINDS), statement)[0]
    return (left.item_of_kind(kind).colour == right.item_of_kind(kind).colour) == ("not" not in statement)


def test_statements_have_correct_labels():
    forms = Counter()
    for row in all_rows("statements"):
        assert row["label"] == str(is_statement_true(*row["scenes"], row["statement"])).lower(), row
        forms[re.sub(f"{THING}|{'|'.join(KINDS)}", "_", row["statement"])] += 1
    assert len(forms) >= 12
    assert min(forms.values()) > 40


def expected_label(scene: Scene, hypothesis: str) -> str:
    """Return the label, computed by trying every thing that the curtain may hide."""

    def holds(items: set[tuple[str, str, int]]) -> bool:
        thing = re.search(THING, hypothesis)
        if thing is None:
            form = rf"(at least two|more than one|fewer than two|at most one) (?:(shape|animal)|({COLOURS}) thing)"
            match = re.search(form, hypothesis)
            count = sum(kind in GROUPS.get(f"{match[2]}s", ()) or colour == match[3] for colour, kind, _ in items)
            return (count >= 2) == (match[1] in ("at least two", "more than one"))
        half = re.search(r"in the (\w+) half", hypothesis)
        place = re.search(PLACE, hypothesis)
        assert (half is None) != (place is None)
        within = half[1] if half else place[0]
        return any(
            (visible_item[0], visible_item[1]) == thing.groups() and within in PLACES[visible_item[2]]
            for visible_item in items
        )

    visible = {(item.colour, item.kind, item.place) for item in scene.items}
    possible_scenes = [visible]
    if scene.curtain is not None:
        possible_scenes += [visible | {(colour, kind, scene.curtain)} for colour in COLOURS_RGB for kind in KINDS]
    truth_values = {holds(candidate) for candidate in possible_scenes}
    return "neutral" if len(truth_values) == 2 else "entailment" if truth_values == {True} else "contradiction"


def test_hypotheses_have_correct_labels():
    for row in all_rows("explanations"):
        assert row["label"] == expected_label(row["scenes"][0], row["hypothesis"]), row


def expected_explanation(scene: Scene, hypothesis: str) -> str:
    """Return the explanation, computed from the words of the hypothesis."""
    curtain = f"behind the curtain {PLACES[scene.curtain]}"
    label = expected_label(scene, hypothesis)
    thing = re.search(THING, hypothesis)
    if thing is None:
        name = re.search(rf"((?:{COLOURS}) thing|shape|animal)s?\b", hypothesis)[1]
        group = name.removesuffix(" thing")
        kinds = [item.kind for item in scene.items if group == item.colour or item.kind in GROUPS.get(f"{group}s", ())]
        return {
            0: f"no {name} can be seen, and no more than one can be {curtain}",
            1: f"one {name} can be seen, and one more may be {curtain}",
            2: f"two {name}s can be seen, {' and '.join(f'the {kind}' for kind in kinds)}",
        }[len(kinds)]
    if label == "neutral":
        return f"{thing[0]} may be {curtain}"
    if label == "entailment":
        return f"there is {thing[0]} {PLACES[scene.item_of_kind(thing[2]).place]}"
    part = re.search(rf"{PLACE}|in the (\w+) half", hypothesis)
    visible = [item.name_with_article for item in scene.items if (part[1] or part[0]) in PLACES[item.place]]
    visible_text = f"only {' and '.join(visible)}" if visible else "nothing"
    return f"there is {visible_text} {part[0]}"


def test_explanations_are_true():
    for row in all_rows("explanations"):
        assert row["explanation"] == expected_explanation(row["scenes"][0], row["hypothesis"]), row
