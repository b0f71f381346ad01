"""Templates that dock images: parts, marks, both in one dock, generic templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal, Docked, ImageSource
from metalm_cli.tasks import Cards, Example
from metalm_cli.templates import PromptStyle, Template, TemplateCollection, prompt_to_session, render

LEFT, RIGHT = ImageSource("left.png", "."), ImageSource("right.png", ".")
EXAMPLE = Example("t", 0, {"text": "They differ."}, ("true",), images={"left": (LEFT,), "right": (RIGHT,)})


def spans(template: Template, example: Example = EXAMPLE, style: PromptStyle | None = None) -> list[Causal | Docked]:
    return list(prompt_to_session(render(example, template, style or PromptStyle()), with_target=False))


def test_two_image_text_pairs_are_docked_apart_as_in_the_paper() -> None:
    (template,) = [
        template for template in TemplateCollection("flan").templates_for(Cards()["nlvr2"]) if template.name == "it-is"
    ]
    example = Example("nlvr2", 0, {"statement": "They differ."}, ("true",), images=EXAMPLE.images)
    docks = [span for span in spans(template, example) if isinstance(span, Docked)]
    contents = [(dock.encoder, dock.content) for dock in docks]
    pair = ("text", "They differ.")
    assert contents == [("vision", LEFT), pair, ("vision", RIGHT), pair]
    assert spans(template, example)[-1] == Causal("it is")


def test_a_route_moves_texts_and_never_images() -> None:
    template = Template(name="a", parts=[{"image": "left"}, {"text": "{{ text }}", "route": "decoder"}])
    for route, text in (
        ("template", Causal("They differ.")),
        ("encoder", Docked("text", "They differ.")),
        ("decoder", Causal("They differ.")),
    ):
        assert spans(template, style=PromptStyle(route=route)) == [Docked("vision", LEFT), Causal("\n"), text]


def test_images_stand_at_their_marks() -> None:
    example = Example("t", 0, {"text": "First <image> then\n<image>\nwhich?"}, ("a",), images={"all": (LEFT, RIGHT)})
    template = Template(name="a", parts=[{"image": "all", "image_mark": "<image>", "text": "{{ text }}"}])
    contents = [span.content for span in spans(template, example) if isinstance(span, Docked)]
    assert contents == ["First", LEFT, "then", RIGHT, "which?"]
    with pytest.raises(MetalmError, match="another number of images") as caught:
        spans(template, Example("t", 0, {"text": "<image>?"}, ("a",), images={"all": (LEFT, RIGHT)}))
    assert "it has 2 images; the text has 1 of <image>" in caught.value.why


def test_an_encoder_of_both_reads_image_and_text_in_one_dock() -> None:
    part = {"image": "left", "text": "{{ text }}", "encoder": "fused", "image_encoder": "fused"}
    template = Template(name="a", parts=[part])
    assert spans(template) == [Docked("fused", {"image": LEFT, "text": "They differ."})]
    assert template.input_parts[0].encoders == {"fused"}


def test_generic_templates_dock_the_images_of_the_card_in_front() -> None:
    card = Cards()["world_statements"]
    (template,) = TemplateCollection("plain").templates_for(card)
    assert [part.image for part in template.input_parts] == ["left", "right", None]


def test_inputs_name_their_images_and_texts_leave_them_out() -> None:
    template = Template(name="a", parts=[{"image": "left"}, {"text": "{{ text }}"}])
    prompt = render(EXAMPLE, template)
    assert prompt.input == "[image left.png]\nThey differ."
    assert prompt.text == "They differ."


@pytest.mark.parametrize("layout", ["joined", "answered"])
def test_demonstrations_with_images_do_not_become_one_text(layout: Any) -> None:
    prompt = render(EXAMPLE, Template(name="a", parts=[{"image": "left"}]))
    with pytest.raises(MetalmError, match="demonstrations with images cannot be"):
        prompt_to_session(prompt, [prompt], style=PromptStyle(layout=layout))


@pytest.mark.parametrize(
    ("parts", "what", "words"),
    [
        ("[{text: '{{ image }}'}]", "reads image, which the card does not have", "dock the image in a part of its own"),
        ("[{image: question}]", "reads question, which the card does not have", "question is a text"),
        ("[{image: photo}]", "reads photo, which the card does not have", "its images are image"),
    ],
)
def test_texts_and_images_are_not_mistaken(tmp_path: Path, parts: str, what: str, words: str) -> None:
    (tmp_path / "easy_vqa.yaml").write_text(f"templates: [{{name: a, parts: {parts}}}]\n")
    with pytest.raises(MetalmError) as caught:
        TemplateCollection(str(tmp_path)).templates_for(Cards()["easy_vqa"])
    assert what in caught.value.what
    assert words in caught.value.why + caught.value.remedy


@pytest.mark.parametrize("part", [{}, {"text": "a", "image_mark": "<image>"}, {"image": "a", "image_mark": "<image>"}])
def test_invalid_parts(part: dict[str, str]) -> None:
    with pytest.raises((MetalmError, ValidationError)):
        Template(name="a", parts=[part])
