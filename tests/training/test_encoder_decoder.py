"""Runs of encoder–decoders through the real commands: finetuning, adapters, resuming, processes, evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_runs as micro
from metalm_cli.inference import load
from metalm_cli.sessions import Causal, Docked, Session
from task_fixtures import TASK_SECTIONS, write_task
from tiny_seq2seq import make_seq2seq, save_seq2seq

T5 = "{model_type: t5, d_model: 32, d_kv: 8, d_ff: 48, num_layers: 2, num_heads: 4}"
BART = (
    "{model_type: bart, d_model: 32, encoder_layers: 2, decoder_layers: 2, encoder_attention_heads: 4, "
    "decoder_attention_heads: 4, encoder_ffn_dim: 48, decoder_ffn_dim: 48, max_position_embeddings: 160}"
)
MODEL = f"""model:
  seq2seq:
    config: {T5}
    tokenizer: {{new: {{vocab_size: 400, documents: 100}}}}
    dropout: 0.0
"""
RECIPE = "command: finetune\n" + MODEL + TASK_SECTIONS
PRETRAIN = (
    micro.RECIPE[: micro.RECIPE.index("model:")]
    + MODEL
    + micro.RECIPE[micro.RECIPE.index("data:") :].replace(
        "{name: semi_causal, span_length: [4, 8], span_fraction: 0.25}", "{name: prefix, prefix_length: [4, 16]}"
    )
)
VARIANTS: dict[str, tuple[list[str], int, dict[str, str]]] = {
    "pad": (["data.row_packing=pad"], 1, {}),
    "pack": (["data.row_packing=pack"], 1, {}),
    "micro": (["data.row_packing=pad", "train.micro_batch_size=3"], 1, {}),
    "workers": (["data.row_packing=pad", "data.workers=2"], 1, {}),
    "recomputed": (["data.row_packing=pad", "train.checkpoint_activations=true"], 1, {}),
    "two": (["data.row_packing=pack", "train.micro_batch_size=1"], 2, {}),
    "fsdp": (["data.row_packing=pack", "train.micro_batch_size=1"], 2, micro.FSDP),
}
Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of different lengths, and the recipes ``micro.yaml`` and ``pretrain.yaml``."""
    root = tmp_path_factory.mktemp("seq2seq")
    write_task(root, "parity", 24, cluster="nli")
    write_task(root, "other", 12, cluster="misc", words=1)
    write_task(root, "long", 16, cluster="misc", words=30)
    micro.write_recipe(root, RECIPE.replace("FOLDER", str(root)))
    micro.write_recipe(root, PRETRAIN, "pretrain.yaml")
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    def run(variant: str, average: str = "token") -> Path:
        out = folder / f"{variant}-{average}"
        if not out.exists():
            arguments, world, environment = VARIANTS[variant]
            line = ["finetune", folder / "micro.yaml", *arguments, f"train.loss_average={average}", "--out", out]
            codes, printed = micro.run_processes(line, folder, world, environment)
            assert codes == [0] * world, "\n".join(printed)
        return out

    return run


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("variant", "average"),
    [
        ("pack", "token"),
        ("micro", "token"),
        pytest.param("workers", "token", marks=pytest.mark.slow),
        ("two", "token"),
        pytest.param("pack", "example", marks=pytest.mark.slow),
        pytest.param("two", "task", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_the_same_however_it_is_cut(runs: Runs, variant: str, average: str) -> None:
    first, second = runs(variant, average), runs("pad", average)
    assert micro.losses(first) == pytest.approx(micro.losses(second), abs=2e-5)
    assert micro.difference(weights(first), weights(second)) < 5e-5
    counts = [[record["trained_tokens"] for record in micro.records(run)] for run in (first, second)]
    assert counts[0] == counts[1]


def test_losses_are_logged_per_task(runs: Runs) -> None:
    (validation,) = micro.records(runs("pad"), "validation")
    assert validation["task_loss"].keys() == {"parity", "other", "long"}
    assert validation["cluster_loss"]["nli"] == pytest.approx(validation["task_loss"]["parity"])


@pytest.mark.parametrize("config", [T5, pytest.param(BART, marks=pytest.mark.slow)], ids=["t5", "bart"])
@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_resumed_equals_uninterrupted(folder: Path, command: str, config: str, tmp_path: Path) -> None:
    recipe = folder / ("micro.yaml" if command == "finetune" else "pretrain.yaml")
    line = [command, recipe, f"model.seq2seq.config={config}", "model.seq2seq.dropout=0.1", "train.steps=6"]
    line += ["train.checkpoint_every=2", "train.keep_checkpoints=9"]
    assert micro.metalm(*line, "--out", tmp_path / "whole") == 0
    assert micro.metalm(*line, "--out", tmp_path / "parts") == 0
    cut = micro.interrupted_copy(tmp_path / "parts", tmp_path / "cut", 2)
    assert micro.metalm(command, "--resume", "--out", cut) == 0
    micro.assert_same_run(cut, tmp_path / "whole", 6)


def test_a_model_is_a_folder_of_transformers(runs: Runs) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model_folder = runs("pad") / "model"
    model = AutoModelForSeq2SeqLM.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    source, target = "parity 3 word. Is 3 even?", " no"
    encoded = tokenizer(source, text_target=target, return_tensors="pt")
    with torch.no_grad():
        loss = model(**{key: encoded[key] for key in ("input_ids", "attention_mask", "labels")}).loss
    session = Session([Docked("text", source), Causal(target, trained=True, end=True)])
    score = load(runs("pad")).log_likelihood([session])
    assert float(score) == pytest.approx(-float(loss) * encoded["labels"].shape[1], abs=1e-4)
    card = (model_folder / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert "| `seq2seq` | T5ForConditionalGeneration |" in card


def test_a_checkpoint_is_trained_on_by_its_name(folder: Path, tmp_path: Path) -> None:
    """``--model`` of a folder of transformers, whole and in its last layers."""
    save_seq2seq("t5", tmp_path / "base")
    line = ["finetune", folder / "micro.yaml", "--model", tmp_path / "base", "model.trains.seq2seq=last_1"]
    assert micro.metalm(*line, "--out", tmp_path / "run") == 0
    before, after = make_seq2seq("t5").state_dict(), weights(tmp_path / "run")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert {".".join(name.split(".")[:3]) for name in changed} == {"encoder.block.1", "decoder.block.1"}
    lineage = json.loads((tmp_path / "run" / "model" / "lineage.json").read_text())
    assert [ancestor["checkpoint"] for ancestor in lineage["ancestors"]] == [str(tmp_path / "base")]


def test_adapters_train_alone_and_merge(folder: Path, runs: Runs, tmp_path: Path) -> None:
    base = runs("pad")
    line = ["finetune", folder / "micro.yaml", "--model", base, "model.lora.rank=2", "model.lora.parts=[decoder]"]
    assert micro.metalm(*line, "--out", tmp_path / "run") == 0
    adapter = load_file(tmp_path / "run" / "adapter" / "seq2seq" / "adapter_model.safetensors")
    assert adapter
    assert all(".decoder." in name and ".lora_" in name for name in adapter)
    assert micro.metalm("export", tmp_path / "run", "--merge", "--out", tmp_path / "merged") == 0
    sessions = [Session([Docked("text", f"Is {number} even?"), Causal(" yes", trained=True)]) for number in range(4)]
    scores = [load(source).log_likelihood(sessions) for source in (tmp_path / "run", tmp_path / "merged", base)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    assert float((scores[0] - scores[2]).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("protocol", "arguments"),
    [("finetuned", []), ("instruct", []), ("in_context", []), ("in_context", ["--shots", 2])],
)
def test_every_protocol_evaluates(
    folder: Path, runs: Runs, protocol: str, arguments: list[Any], tmp_path: Path
) -> None:
    line = ["eval", runs("pad"), "--task", folder / "parity.yaml", "--templates", folder / "words"]
    out = tmp_path / "result.json"
    assert micro.metalm(*line, "--limit", 6, "--protocol", protocol, *arguments, "--out", out) == 0
    result = json.loads(out.read_text())
    assert result["model"]["decoder"] == "t5"
    assert "parity" in json.dumps(result["tasks"])


def test_two_families_are_compared(folder: Path, runs: Runs, tmp_path: Path) -> None:
    from model_families import make_decoder
    from tiny_models import tokenizer_of

    make_decoder("gpt2", vocab_size=len(tokenizer_of("byte")), n_positions=128).save_pretrained(tmp_path / "gpt2")
    tokenizer_of("byte").save_pretrained(tmp_path / "gpt2")
    line = ["eval", runs("pad"), "--versus", tmp_path / "gpt2", "--task", folder / "parity.yaml"]
    assert micro.metalm(*line, "--templates", folder / "words", "--limit", 6, "--out", tmp_path / "result.json") == 0
    models = [json.loads((tmp_path / name).read_text())["model"] for name in ("result.json", "result-2.json")]
    assert [model["decoder"] for model in models] == ["t5", "gpt2"]


def test_instructions_are_tuned_on(folder: Path, tmp_path: Path) -> None:
    recipe = (folder / "micro.yaml").read_text().replace("command: finetune", "command: instruct")
    micro.write_recipe(tmp_path, recipe)
    assert micro.metalm("instruct", tmp_path / "micro.yaml", "train.steps=2", "--out", tmp_path / "run") == 0
    lineage = json.loads((tmp_path / "run" / "model" / "lineage.json").read_text())
    assert lineage["command"] == "instruct"


def test_a_text_is_generated(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro.metalm("generate", runs("pad"), "Is 4 even?", "--max-new-tokens", 3) == 0
    assert capsys.readouterr().out.strip()


def test_rows_are_shown_as_source_and_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro.metalm("show", folder / "micro.yaml", "-n", 1) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "[encoder " in output
    assert "OPTIONS:" in output[: output.index("{‹<pad>›}")]
    assert micro.metalm("show", folder / "micro.yaml", "-n", 1, "--positions") == 0
    assert "encoder 1/" in capsys.readouterr().out


def test_the_plan_names_what_is_packed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for config, text in ((T5, "examples packed"), (BART, "packing is not exact for this encoder–decoder")):
        line = ["finetune", folder / "micro.yaml", f"model.seq2seq.config={config}", "--dry-run"]
        assert micro.metalm(*line) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert text in output
        assert "'<pad>' before each target, in the decoder" in output


def test_training_in_bf16_learns(folder: Path, tmp_path: Path) -> None:
    line = ["finetune", folder / "micro.yaml", "train.precision=bf16", "data.row_packing=pack", "train.steps=30"]
    assert micro.metalm(*line, "--out", tmp_path / "run") == 0
    losses = micro.losses(tmp_path / "run")
    assert losses[-1] < 0.7 * losses[0]


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    assert micro.metalm(*line) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("objective", ["semi_causal", "causal", "mlm", "rtd"])
def test_other_objectives_are_refused_by_name(folder: Path, objective: str, capsys: Any) -> None:
    message = refused(capsys, "pretrain", folder / "pretrain.yaml", f"objective={{name: {objective}}}", "--dry-run")
    assert objective in message
    assert "objective.name=prefix" in message or "set exactly one encoder" in message


def test_an_encoder_decoder_checkpoint_refuses_other_objectives(folder: Path, tmp_path: Path, capsys: Any) -> None:
    save_seq2seq("t5", tmp_path)
    line = ["pretrain", folder / "pretrain.yaml", f"model.checkpoint={tmp_path}", "objective={name: causal}"]
    message = refused(capsys, *line, "--dry-run")
    assert "objective causal does not train encoder-decoder models" in message
    assert "objective.name=prefix" in message


def test_a_seq2seq_checkpoint_given_as_decoder_and_the_reverse(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from model_families import make_decoder
    from tiny_models import tokenizer_of

    save_seq2seq("t5", tmp_path / "t5")
    make_decoder("gpt2", vocab_size=len(tokenizer_of("byte"))).save_pretrained(tmp_path / "gpt2")
    tokenizer_of("byte").save_pretrained(tmp_path / "gpt2")
    message = refused(
        capsys, "finetune", folder / "micro.yaml", f"model.decoder.checkpoint={tmp_path / 't5'}", "--dry-run"
    )
    assert "a t5 model is an encoder–decoder, not a decoder" in message
    assert "model.seq2seq.checkpoint" in message
    message = refused(
        capsys, "finetune", folder / "micro.yaml", f"model.seq2seq.checkpoint={tmp_path / 'gpt2'}", "--dry-run"
    )
    assert "a gpt2 model is not an encoder–decoder of texts" in message
    assert "model.decoder" in message


def test_a_source_needs_room_for_its_special_tokens(folder: Path, capsys: Any) -> None:
    config = BART.replace("160", "128")
    line = ["finetune", folder / "micro.yaml", f"model.seq2seq.config={config}", "--dry-run"]
    assert "got 128, expected at most the 127 positions that this bart model reads" in refused(capsys, *line)


def test_keys_of_other_families_are_refused(folder: Path, tmp_path: Path, capsys: Any) -> None:
    save_seq2seq("t5", tmp_path)
    line = ["finetune", folder / "micro.yaml", "--model", tmp_path, "--dry-run"]
    message = refused(capsys, *line, "model.trains.decoder=none")
    assert "model.trains.decoder is set for a model that is an encoder–decoder" in message
    message = refused(capsys, "finetune", folder / "micro.yaml", "model.special_tokens.start=always", "--dry-run")
    assert "model.special_tokens.start" in message
    assert "start token of its own" in message
