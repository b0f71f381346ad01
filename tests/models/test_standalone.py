"""Standalone exports and exported parts, loaded in a fresh process that cannot import metalm."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import metalm_cli as metalm
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.standalone.write import MODELING_FILE
from metalm_cli.training.export import export
from model_families import noise_image
from tiny_language_models import tiny_language_model

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"family": "gpt2", "encoders": ("text",), "connector": {"kind": "mlp", "layers": 3}},
    "stack": {"family": "llama", "encoders": ("text", "vision"), "connector": {"kind": "stack", "factor": 4}},
    "mean": {"family": "opt", "encoders": ("text", "vision"), "connector": {"kind": "mean", "factor": 4}, "layer": -2},
    "queries": {
        "family": "gemma2",
        "encoders": ("text", "vision"),
        "connector": {"kind": "queries", "length": 3, "layers": 2, "heads": 2},
    },
    "rules": {
        "family": "gpt2",
        "encoders": ("text", "vision"),
        "connector": {"kind": "linear"},
        "rules": {"start": "always", "document": "<s>", "paragraph": "a"},
        "keep_special": True,
    },
}
SESSIONS: list[list[Any]] = [
    [["text", "the dog barked at a girl and ran"]],
    ["Is it cold?\nWell", ["text", "A cat sat in the sun all day."], ":"],
    ["So it <s> goes."],
    [["vision", "noise.png"], ["text", "It rained."], " so", " we"],
    [["text", "Lily said <s>."], " yes\n", ["text", "Is a dog a cat?"]],
]
ANSWERS = [" yes", " no\nor so", " the dog ran", "maybe", " 1,234 dogs"]
PROMPT = "Once upon a time"
PART_TEXT = "A dog barked."
PAGE = Path(__file__).parents[2] / "docs" / "export.md"
SCRIPT = """
import json, os, sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "metalm_cli":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
try:
    import metalm_cli
    raise SystemExit("metalm can be imported")
except ModuleNotFoundError:
    pass
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

folder = Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text())
image = Image.open(folder / "noise.png")
results = {}
for name, sessions in task["sessions"].items():
    source = folder / name
    model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    autos = {"text": AutoTokenizer, "vision": AutoImageProcessor}
    processors = {
        each: autos[each].from_pretrained(source, subfolder=f"processors/{each}") for each in model.encoders
    }
    sessions = [
        [each if isinstance(each, str) else (each[0], image if each[0] == "vision" else each[1]) for each in session]
        for session in sessions
    ]
    answers = task["answers"][: len(sessions)]
    scores = [model.log_likelihood(sessions, answers, tokenizer, processors, end=end).tolist() for end in (0, 1)]
    left = model.prepare(sessions, tokenizer, processors, answers=answers)
    labels = left.pop("labels")
    logits = model(**left).logits[:, :-1].log_softmax(-1)
    count, loss = int((labels >= 0).sum()), float(model(**left, labels=labels).loss)
    losses = logits.gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0].masked_fill(labels[:, 1:] < 0, 0.0)
    new = model.generate(**model.prepare(sessions, tokenizer, processors), max_new_tokens=6)
    results[name] = {"scores": scores, "left": losses.sum(1).tolist(), "loss": -loss * count, "new": new.tolist()}
pipe = pipeline("text-generation", model=str(folder / "mlp"), trust_remote_code=True)
results["pipeline"] = pipe(task["prompt"], max_new_tokens=6, do_sample=False, return_full_text=False)
with torch.no_grad():
    source = folder / "decoder"
    ids = AutoTokenizer.from_pretrained(source)(task["text"], return_tensors="pt").input_ids
    results["decoder"] = AutoModelForCausalLM.from_pretrained(source)(ids).logits.tolist()
    source = folder / "encoders.text"
    ids = AutoTokenizer.from_pretrained(source)(task["text"], return_tensors="pt").input_ids
    results["encoders.text"] = AutoModel.from_pretrained(source)(ids).last_hidden_state.tolist()
    source = folder / "encoders.vision"
    inputs = AutoImageProcessor.from_pretrained(source)(images=image, return_tensors="pt")
    results["encoders.vision"] = AutoModel.from_pretrained(source)(**inputs).last_hidden_state.tolist()
os.chdir(folder)
exec(task["page"])
print(json.dumps(results))
"""


def save(
    folder: Path, family: str, encoders: tuple[str, ...], keep_special: bool = False, layer: int = -1, **options: Any
) -> Path:
    language_model = tiny_language_model(family, *encoders, tie_word_embeddings=False, **options)
    model = copy.deepcopy(language_model.model)
    model.config.tokens = language_model.decoder_tokenizer.rules.to_dict()
    model.config.docking = {
        name: {"kind": name, "max_length": 60 if name == "text" else None, "keep_special": keep_special}
        | ({} if layer == -1 else {"layer": layer})
        for name in encoders
    }
    save_model(folder, model, language_model.decoder_tokenizer, language_model.processors)
    return folder


def sessions_of(name: str) -> list[list[Any]]:
    encoders = MODELS[name]["encoders"]
    return [session for session in SESSIONS if all(isinstance(span, str) or span[0] in encoders for span in session)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of exports, with the models that they were made of in ``models``."""
    folder = tmp_path_factory.mktemp("standalone")
    for name, options in MODELS.items():
        export(str(save(folder / "models" / name, **options)), folder / name, standalone=True)
    for part in ("decoder", "encoders.text", "encoders.vision"):
        export(str(folder / "models" / "stack"), folder / part, part=part)
    noise_image().save(folder / "noise.png")
    task: dict[str, Any] = {"sessions": {name: sessions_of(name) for name in MODELS}, "answers": ANSWERS}
    page = PAGE.read_text(encoding="utf-8").partition("## Without metalm")[2].partition("```python\n")[2]
    task |= {"prompt": PROMPT, "text": PART_TEXT, "page": page.partition("```")[0].replace('"alone"', '"mlp"')}
    (folder / "task.json").write_text(json.dumps(task))
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """What a process computes that can import transformers, but not metalm."""
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(folder)],
        env={**environment, "HF_MODULES_CACHE": str(folder / "modules")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "generated_text" in done.stdout, "what the page prints"
    return json.loads(done.stdout.splitlines()[-1])


def spans_of(folder: Path, session: list[Any]) -> list[Any]:
    return [
        metalm.Causal(span)
        if isinstance(span, str)
        else metalm.Docked(span[0], str(folder / span[1]) if span[0] == "vision" else span[1])
        for span in session
    ]


@pytest.mark.parametrize("name", MODELS)
def test_docked_sessions_without_metalm_are_those_of_metalm(name: str, folder: Path, results: dict[str, Any]) -> None:
    loaded = metalm.load(folder / "models" / name)
    prompts = [spans_of(folder, session) for session in sessions_of(name)]
    for end, scores in zip((False, True), results[name]["scores"], strict=True):
        sessions = [
            metalm.Session([*spans, metalm.Causal(answer, trained=True, end=end)])
            for spans, answer in zip(prompts, ANSWERS, strict=False)
        ]
        expected = loaded.log_likelihood(sessions)
        torch.testing.assert_close(torch.tensor(scores, dtype=torch.float64), expected, atol=1e-5, rtol=1e-6)
        if not end:
            torch.testing.assert_close(torch.tensor(results[name]["left"]), expected.float(), atol=1e-4, rtol=1e-5)
            assert results[name]["loss"] == pytest.approx(float(expected.sum()), abs=1e-3)
    texts = loaded.generate([metalm.Session(spans) for spans in prompts], max_new_tokens=6)
    assert [loaded.decode(ids) for ids in results[name]["new"]] == texts
    assert len(set(texts)) > 1


def test_the_pipeline_continues_a_text(folder: Path, results: dict[str, Any]) -> None:
    expected = metalm.load(folder / "models" / "mlp").generate(
        [metalm.Session([metalm.Causal(PROMPT)])], max_new_tokens=6
    )
    assert [each["generated_text"] for each in results["pipeline"]] == expected


@torch.no_grad()
def test_parts_without_metalm_compute_the_same(folder: Path, results: dict[str, Any]) -> None:
    loaded = metalm.load(folder / "models" / "stack")
    ids = loaded.tokenizer(PART_TEXT, return_tensors="pt").input_ids
    expected = {"decoder": loaded.model.decoder(ids).logits}
    ids = loaded.processors["text"].tokenizer(PART_TEXT, return_tensors="pt").input_ids
    expected["encoders.text"] = loaded.model.encoders["text"](ids).last_hidden_state
    pixels = torch.tensor(loaded.processors["vision"].prepare(str(folder / "noise.png")).arrays["pixel_values"])
    expected["encoders.vision"] = loaded.model.encoders["vision"](pixels[None]).last_hidden_state
    for part, outputs in expected.items():
        torch.testing.assert_close(torch.tensor(results[part]), outputs, atol=1e-5, rtol=1e-5)


def test_an_exported_decoder_keeps_its_token_rules(folder: Path, tmp_path: Path) -> None:
    export(str(folder / "models" / "rules"), tmp_path / "decoder", part="decoder")
    loaded = metalm.load(tmp_path / "decoder")
    assert loaded.decoder_tokenizer.rules.to_dict().items() >= MODELS["rules"]["rules"].items()
    assert json.loads((tmp_path / "decoder" / "generation_config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize("trust", [False, True])
def test_metalm_does_not_run_the_modelling_file(trust: bool, folder: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    export(str(folder / "models" / "mlp"), exported, standalone=True)
    (exported / MODELING_FILE).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    loaded = metalm.load(exported, trust_remote_code=trust)
    assert type(loaded.model) is metalm.MetaLM
    assert not (tmp_path / "ran").exists()
    save_model(tmp_path / "saved", loaded.model, loaded.decoder_tokenizer, loaded.processors)
    export(str(exported), tmp_path / "copied")
    for written in ("saved", "copied"):
        assert "auto_map" not in json.loads((tmp_path / written / "config.json").read_text())
        assert not (tmp_path / written / MODELING_FILE).exists()
    expected = metalm.load(folder / "models" / "mlp").log_likelihood(
        [metalm.Session([metalm.Causal("So", trained=True)])]
    )
    for written in (exported, tmp_path / "copied"):
        scores = metalm.load(written).log_likelihood([metalm.Session([metalm.Causal("So", trained=True)])])
        assert torch.equal(scores, expected)


def refused(source: Path, match: str, **options: Any) -> MetalmError:
    out = source.parent / "refused"
    with pytest.raises(MetalmError, match=match) as caught:
        export(str(source), out, **options)
    assert caught.value.remedy
    assert not out.exists()
    return caught.value


def test_models_that_no_file_or_part_can_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    model = folder / "models" / "mlp"
    assert "decoder, encoders.text" in refused(model, "no part 'encoders.vision'", part="encoders.vision").why
    refused(folder / "decoder", "needs no modelling file", standalone=True)
    config = json.loads((model / "config.json").read_text())
    for key, value, match in (
        ("encoder_configs", {"other": {"model_type": "bert"}}, "the model cannot be loaded"),
        ("connectors", 5, "the model cannot be loaded"),
        ("decoder_config", {"model_type": "metalm-decoder"}, "the decoder does not load without metalm"),
        ("connectors", {"text": {"kind": "own"}}, "the connector own is not in the modelling file"),
        ("docking", {"text": {"kind": "fused", "adapter": "fused"}}, "the encoder adapter fused is not in the"),
    ):
        changed = tmp_path / f"{key}-{match}" / "model"
        changed.mkdir(parents=True)
        (changed / "config.json").write_text(json.dumps({**config, key: value}))
        refused(changed, match, standalone=True)
    assert (
        "metalm-decoder"
        in refused(next(tmp_path.glob("decoder_config*")) / "model", "decoder does not load", part="decoder").why
    )
