"""Schema of the connectors in the ``model`` section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from metalm_cli.common import registry
from metalm_cli.config.schema.base import (
    MAX_LEARNING_RATE,
    TRAINS_OF_A_PART,
    InconsistentValues,
    Section,
    TrainableLayers,
)
from metalm_cli.config.schema.plugin_sections import key_sections

if TYPE_CHECKING:
    ConnectorKind = str
else:
    ConnectorKind = Literal[tuple(registry.connectors.names())]

SETTINGS_OF_KINDS: dict[str, tuple[str, ...]] = {
    "mlp": ("layers",),
    "stack": ("factor",),
    "mean": ("factor",),
    "queries": ("length", "layers", "heads"),
}
"""Keys of a connector by the kinds of metalm that have any."""
KINDS_OF_SETTINGS = {
    key: tuple(kind for kind, keys in SETTINGS_OF_KINDS.items() if key in keys)
    for key in ("layers", "factor", "length", "heads")
}
MIN_MLP_LAYERS = 2
DEFAULT_HEADS = 8
MAX_COMPRESSION = 4096
"""Greatest number of outputs that become one position, and of learned vectors."""


class ConnectorConfig(Section):
    """Projection of encoder outputs to the width of the decoder's token embeddings."""

    renamed: ClassVar[dict[str, str]] = {"train": "trains"}
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"kind": tuple(KINDS_OF_SETTINGS)}
    plugin_kinds: ClassVar[dict[str, type[Section]]] = {}
    """Settings of the kinds of plug-ins that have any, each below the key of its name."""

    kind: ConnectorKind = Field(
        default="linear",
        description="One position for each encoder output: linear: a single projection; mlp: several layers with GELU "
        "in between. Fewer positions: stack: factor neighbouring outputs joined, then projected; mean: factor "
        "neighbouring outputs averaged, then projected; queries: length learned vectors that attend to the outputs.",
    )
    layers: int = Field(default=3, ge=1, le=12, description="Number of layers of mlp (at least 2) and queries.")
    factor: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COMPRESSION,
        description="Outputs per position of stack and mean. Patches of images are grouped in squares: 4, 9, 16, ...",
    )
    length: int | None = Field(
        default=None, ge=1, le=MAX_COMPRESSION, description="Positions of a dock with queries, whatever its content."
    )
    heads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Attention heads of queries; it divides the width of the decoder's token embeddings. Default: 8.",
    )
    trains: TrainableLayers | None = Field(default=None, description=TRAINS_OF_A_PART)
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of the connector; default: train.learning_rate.",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the kind, as the model's config saves them."""
        if self.kind in self.plugin_kinds:
            return (getattr(self, self.kind) or self.plugin_kinds[self.kind]()).model_dump(mode="json")
        if self.kind == "linear":
            return {"layers": 1}
        settings = {key: getattr(self, key) for key in SETTINGS_OF_KINDS.get(self.kind, ())}
        return {key: DEFAULT_HEADS if key == "heads" and value is None else value for key, value in settings.items()}

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> ConnectorConfig:
        for name in self.plugin_kinds:
            if getattr(self, name) is not None and self.kind != name:
                raise InconsistentValues(
                    f"got settings of {name} with kind {self.kind}",
                    key=name,
                    remedy=f"set kind={name}, or remove them",
                    depends_on=("kind",),
                )
        kind = self.kind
        of_kind = SETTINGS_OF_KINDS.get(kind, ())
        for key, kinds in KINDS_OF_SETTINGS.items():
            # The recipe that a run records sets every key, those of other kinds to their defaults.
            if key not in of_kind and getattr(self, key) != type(self).model_fields[key].default:
                raise InconsistentValues(
                    f"got {key} with kind {kind}, expected it only with kind {' or '.join(kinds)}",
                    key=key,
                    remedy=f"remove it, or set kind={kinds[0]}",
                    depends_on=("kind",),
                )
            if key in of_kind and key != "heads" and getattr(self, key) is None:
                raise InconsistentValues(
                    f"missing, kind {kind} needs {key}",
                    key=key,
                    remedy=f"set it, or another kind than {kind}",
                    is_missing=True,
                )
        if kind == "mlp" and self.layers < MIN_MLP_LAYERS:
            raise InconsistentValues(
                f"got {self.layers} with kind mlp, expected at least {MIN_MLP_LAYERS}",
                key="layers",
                remedy="set kind=linear for a single projection",
            )
        if kind in self.plugin_kinds and getattr(self, kind) is None:
            required = [key for key, field in self.plugin_kinds[kind].model_fields.items() if field.is_required()]
            if required:
                raise InconsistentValues(f"missing, kind {kind} needs {', '.join(required)}", key=kind, is_missing=True)
        return self


if not TYPE_CHECKING and (_sections := key_sections(registry.connectors, set(ConnectorConfig.model_fields))):
    _base = ConnectorConfig
    ConnectorConfig = create_model(
        "ConnectorConfig",
        __base__=_base,
        __doc__=_base.__doc__,
        **{
            name: (section | None, Field(default=None, description=f"Settings of the kind {name}."))
            for name, section in _sections.items()
        },
    )
    ConnectorConfig.plugin_kinds = _sections
    ConnectorConfig.companions = {"kind": (*KINDS_OF_SETTINGS, *_sections)}
