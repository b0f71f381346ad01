"""The plug-in of docs/plugins.md, installed as a foreign distribution and used through the real command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from plugin_distributions import metalm, write_distribution

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
COMMANDS = [line for text in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in text.splitlines()]
HEAVY = ["torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "yaml", "pydantic"]


def install(folder: Path) -> Path:
    """Install the distribution of the page in a folder."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    modules = {name: text for name, text in FILES.items() if name.startswith("metalm_example/")}
    points = project["entry-points"]["metalm.plugins"]
    return write_distribution(folder, project["name"], modules, points, project["version"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def used(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder in which the commands of the page have run, and what they printed."""
    folder = tmp_path_factory.mktemp("used")
    for name, text in FILES.items():
        if not name.startswith("metalm_example/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    printed = []
    for line in COMMANDS:
        done = metalm(folder, *shlex.split(line)[1:], site=site)
        assert done.returncode == 0, (line, done.stderr)
        assert "warning" not in done.stderr, line
        printed.append(done.stdout)
    return folder, printed


def test_the_page_shows_every_kind_of_the_task() -> None:
    assert {"plugin", "settings", "metrics", "objectives", "encoders", "connectors", "commands"} == {
        Path(name).stem for name in FILES if name.startswith("metalm_example/")
    }
    from metalm_cli.common.registry import KINDS

    assert re.findall(r"^\| `(\w+)` \|", PAGE.partition("## All kinds")[2], flags=re.MULTILINE) == list(KINDS)


def test_the_names_are_listed_with_their_distribution(used: tuple[Path, list[str]]) -> None:
    rows = [line.split("\t") for line in used[1][0].splitlines()]
    ours = [tuple(row[:3]) for row in rows if row[2] == "metalm-example 0.1.0"]
    assert ours == [
        ("objectives", "first_tokens", "metalm-example 0.1.0"),
        ("metrics", "first_word", "metalm-example 0.1.0"),
        ("encoder_adapters", "first_layer", "metalm-example 0.1.0"),
        ("connectors", "gated", "metalm-example 0.1.0"),
        ("commands", "hello", "metalm-example 0.1.0"),
        ("plug-in", "example", "metalm-example 0.1.0"),
    ]
    assert rows[-1] == ["plug-in", "example", "metalm-example 0.1.0", "metalm_example.plugin:register", "loaded"]


def test_the_command_runs(used: tuple[Path, list[str]]) -> None:
    assert used[1][1] == "hello reader\n"


def test_the_trained_model_has_the_connector_and_the_adapter(used: tuple[Path, list[str]]) -> None:
    from safetensors.torch import load_file

    for folder in ("runs/first-tokens/model", "exported"):
        config = json.loads((used[0] / folder / "config.json").read_text())
        assert config["connectors"] == {"text": {"kind": "gated", "bottleneck": 8}}
        assert config["docking"]["text"]["adapter"] == "first_layer"
        tensors = load_file(used[0] / folder / "model.safetensors")
        assert tensors["connectors.text.gate.0.weight"].shape == (8, 32)
    records = [json.loads(line) for line in (used[0] / "runs/first-tokens/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"][-1] == 3


CHECK_MODEL = """
import torch, metalm_cli
from metalm_cli import Causal, Docked, Session
from metalm_example.connectors import GatedConnector
from metalm_example.encoders import FirstLayerIO
loaded = metalm_cli.load("exported")
model = loaded.model
assert type(model.connectors["text"]) is GatedConnector and type(model.encoder_ios["text"]) is FirstLayerIO
encoder = model.encoders["text"].eval()
ids = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
first = []
encoder.encoder.layer[0].register_forward_hook(lambda layer, inputs, output: first.append(output))
with torch.no_grad():
    outputs = model.encoder_ios["text"].outputs(encoder, ids)
assert torch.equal(outputs, first[0][0] if isinstance(first[0], tuple) else first[0])
print(loaded.log_likelihood([Session([Docked("text", "the lamp"), Causal(" is on", trained=True)])]))
"""


def test_the_exported_model_is_loaded_with_them(site: Path, used: tuple[Path, list[str]]) -> None:
    done = metalm(used[0], site=site, code=f"exec({CHECK_MODEL!r})")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_spans_are_those_of_the_objective(used: tuple[Path, list[str]]) -> None:
    rows = json.loads((used[0] / "runs/first-tokens/sessions.json").read_text())["rows"]
    sessions = [
        [span for span in row["spans"] if span[0] == number] for row in rows for number in range(len(row["spans"]))
    ]
    begun = [[kind for _, kind, *_ in spans] for spans in sessions if spans]
    assert ["docked", "trained"] in [kinds[:2] for kinds in begun]
    assert all(kinds.count("docked") <= 1 for kinds in begun)


def test_the_card_is_scored_with_the_metric(used: tuple[Path, list[str]]) -> None:
    (task,) = json.loads((used[0] / "bright.json").read_text())["tasks"].values()
    assert task["metric"] == "first_word"
    (setting,) = task["settings"]
    (template,) = setting["templates"]
    assert template["chance"] == {"uniform": 50.0, "majority": 50.0}, "one of two options, on one example of each class"
    assert template["score"] == 100 * sum(template["each"]["value"]) / 2
    assert template["error"] is not None
    assert setting["interval"][0] <= setting["score"] <= setting["interval"][1]


def test_without_the_plug_in_the_names_are_unknown(used: tuple[Path, list[str]]) -> None:
    done = metalm(used[0], "recipe", "check", "first_tokens.yaml", site=None)
    assert done.returncode != 0
    for message in ("got first_tokens", "got gated", "got first_layer"):
        assert message in done.stdout + done.stderr
    done = metalm(used[0], "hello", site=None)
    assert done.returncode == 2
    assert "no command is named hello" in done.stderr
    done = metalm(used[0], "tasks", "show", "cards/bright.yaml", site=None)
    assert done.returncode == 2
    assert "first_word" in done.stderr
    done = metalm(used[0], "generate", "exported", "The lamp", site=None)
    assert done.returncode == 2
    assert "no connector is named gated" in done.stderr or "no encoder adapter is named first_layer" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_errors_with_their_keys(site: Path, used: tuple[Path, list[str]]) -> None:
    arguments = [
        "objective.token=3",
        "model.connector.gated.bottleneck=0",
        "model.encoders.text.adapter=first_lair",
        "model.encoders.text.connector={kind: linear, gated: {bottleneck: 2}}",
    ]
    done = metalm(used[0], "recipe", "check", "first_tokens.yaml", *arguments, site=site)
    assert done.returncode == 2
    report = done.stdout + done.stderr
    for text in (
        "objective.token",
        "did you mean tokens?",
        "model.connector.gated.bottleneck",
        "a whole number of at least 1",
        "did you mean first_layer?",
        "got settings of gated with kind linear",
    ):
        assert text in report, report


def test_another_kind_drops_the_settings_of_the_extended_recipe(site: Path, used: tuple[Path, list[str]]) -> None:
    done = metalm(used[0], "recipe", "check", "first_tokens.yaml", "model.connector.kind=mlp", site=site)
    assert done.returncode == 0, done.stderr


def test_the_reference_and_the_json_schema_have_the_keys(site: Path, used: tuple[Path, list[str]]) -> None:
    page = metalm(used[0], "recipe", "schema", "--markdown", site=site).stdout
    assert "### `objective`: `name: first_tokens`" in page
    assert "| `tokens` | a whole number of at least 1 | `8` | Number of docked tokens. |" in page
    assert "### `model.encoders.NAME.connector.gated`" in page
    assert "linear, mlp, stack, mean, queries or gated" in page
    assert "text, vision, fused, first_layer or null" in page
    schema = json.loads(metalm(used[0], "recipe", "schema", site=site).stdout)
    objectives = [
        schema["$defs"][entry["$ref"].rpartition("/")[2]] for entry in schema["properties"]["objective"]["anyOf"]
    ]
    (objective,) = [entry for entry in objectives if entry["properties"]["name"]["const"] == "first_tokens"]
    assert objective["properties"]["tokens"]["minimum"] == 1
    assert objective["additionalProperties"] is False
    connector = schema["$defs"]["ConnectorConfig"]["properties"]
    assert connector["kind"]["enum"] == ["linear", "mlp", "stack", "mean", "queries", "gated"]
    assert "gated" in connector


def test_the_help_with_three_plug_ins_imports_nothing_heavy(site: Path, tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        addition = f"plugins.commands.add('{name}', 'no_such_module:x', description='Do {name}.')"
        source = f"def register(plugins):\n    {addition}\n"
        write_distribution(tmp_path, name, {f"{name}_registering.py": source}, {name: f"{name}_registering:register"})
    code = (
        "from metalm_cli.cli.app import run; code = run(sys.argv[1:]);"
        f"names = [name for name in {HEAVY!r} if name in sys.modules];"
        "names += [name for name in sys.modules if name.startswith('metalm_example.') and name[15:] != 'plugin'];"
        "print(code, names, file=sys.stderr)"
    )
    both = os.pathsep.join([str(site), str(tmp_path)])
    done = metalm(tmp_path, "--help", site=Path(both), code=code)
    assert done.stderr == "0 []\n"
    panel = done.stdout.partition("Commands of plug-ins")[2]
    assert re.findall(r"│ (\w+) +(.*?) +│", panel) == [
        ("alpha", "Do alpha."),
        ("beta", "Do beta."),
        ("hello", "Greet someone."),
    ]
    done = metalm(tmp_path, "alpha", site=Path(both))
    assert done.returncode == 2
    assert "the command alpha of alpha 1.0 cannot be imported" in done.stderr
