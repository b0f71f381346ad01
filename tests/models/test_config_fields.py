"""Names of the fields of model configs in recipes."""

from __future__ import annotations

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.config_fields import check_config_fields
from model_families import DECODERS, ENCODERS

WHERE = "model.decoder.config"


@pytest.mark.parametrize("kind", [*DECODERS, *(kind for kind in ENCODERS if kind != "modernbert")])
def test_fields_of_the_families_are_known(kind: str) -> None:
    assert check_config_fields(kind, (DECODERS | ENCODERS)[kind], WHERE) == []


@pytest.mark.parametrize(("kind", "name", "meant"), [("t5", "d_modl", "d_model"), ("gpt2", "n_embdd", "n_embd")])
def test_a_misspelt_field_is_an_error_with_the_meant_one(kind: str, name: str, meant: str) -> None:
    with pytest.raises(MetalmError) as error:
        check_config_fields(kind, [name], WHERE)
    assert (error.value.what, error.value.where) == (f"a {kind} config has no field {name}", f"{WHERE}.{name}")
    assert error.value.remedy.startswith(f"did you mean {meant}? ")


def test_other_names_of_fields_and_those_of_all_models_are_known() -> None:
    assert check_config_fields("gpt2", ["hidden_size", "pad_token_id", "tie_word_embeddings", "dtype"], WHERE) == []
    assert check_config_fields("llama", ["rope_theta", "rope_scaling"], WHERE) == []


def test_a_field_that_resembles_none_is_noted() -> None:
    (note,) = check_config_fields("gpt2", ["zebra"], WHERE)
    assert note.startswith(f"{WHERE}.zebra: a gpt2 config has no such field")


def test_an_unknown_model_type_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(MetalmError) as error:
        check_config_fields("electraa", [], WHERE)
    assert error.value.where == f"{WHERE}.model_type"
    assert error.value.remedy.startswith("did you mean electra? ")
