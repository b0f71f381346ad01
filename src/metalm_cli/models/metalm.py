"""MetaLM: encoders docked through connectors into a causal decoder (section 2 of the paper).

The decoder reads one sequence of vectors: its own token embeddings, and the connector's projection of an encoder's
outputs, one position each. There is no cross-attention. A model without encoders is a plain causal language model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from metalm_cli.models.capabilities import DecoderTraits, measure_decoder
from metalm_cli.models.connectors import connected
from metalm_cli.models.decoders import full_logits, head_of, hidden_states, teacher_mode
from metalm_cli.models.dual_encoder.docked_encoders import DockedEncoders, EncoderRecords
from metalm_cli.models.loss import divergence, linear_cross_entropy, linear_divergence
from metalm_cli.sessions import Batch, DockTable, PackedTokens, TeacherTokens


class MetaLMConfig(EncoderRecords, PreTrainedConfig):
    """Configuration of a :class:`MetaLM`.

    Args:
        decoder_config: The decoder's config, as a dict with ``model_type``.
        encoder_configs: Each encoder's, by name.
        connectors: ``{"kind", ...}`` of each encoder's connector, with the settings of its kind.
        docking: ``{"kind", "max_length", "keep_special"}`` of each encoder, and ``adapter`` and ``layer`` if the recipe
            named one.
        tokens: Token rules (:class:`metalm_cli.sessions.TokenRules`).
        training: ``{"train", "learning_rate"}`` of each part as last trained, inherited by runs that continue.
        encoder_tasks: Tasks that each encoder of a combined model was trained on: their sessions dock into it.
    """

    model_type = "metalm"

    def __init__(
        self,
        decoder_config: dict[str, Any] | None = None,
        encoder_configs: dict[str, dict[str, Any]] | None = None,
        connectors: dict[str, dict[str, Any]] | None = None,
        docking: dict[str, dict[str, Any]] | None = None,
        tokens: dict[str, str] | None = None,
        training: dict[str, dict[str, Any]] | None = None,
        encoder_tasks: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.decoder_config = decoder_config or {}
        self.encoder_configs = encoder_configs or {}
        self.connectors = connectors or {}
        self.docking = docking or {}
        self.tokens = tokens or {}
        self.training = training or {}
        self.encoder_tasks = encoder_tasks or {}
        kwargs.setdefault("tie_word_embeddings", False)  # the decoder ties its own
        super().__init__(**kwargs)


def positions_of_decoder(config: Any) -> int | None:
    """Return the maximum number of positions of a decoder, from its config; None if it computes them for any length."""
    return None if config.model_type == "metalm-decoder" else getattr(config, "max_position_embeddings", None)


class MetaLM(DockedEncoders):
    """Decoder with encoders docked through connectors.

    Args:
        config: Configuration of the model.
        decoder: A causal language model to use as it is; default: built from the config.
        encoders: Encoders to use as they are, by name; default: built from the config.

    Attributes:
        decoder: The causal language model (the universal task layer).
        family: Name of the model family.
    """

    family = "decoder-only"
    config_class = MetaLMConfig
    config: MetaLMConfig

    def __init__(
        self, config: MetaLMConfig, decoder: Any = None, encoders: dict[str, PreTrainedModel] | None = None
    ) -> None:
        super().__init__(config)
        if decoder is None:
            # Explicit, because transformers would prompt on the terminal for a config that refers to remote code.
            decoder_config = config.part_config(config.decoder_config)
            decoder = AutoModelForCausalLM.from_config(decoder_config, trust_remote_code=False)
        self.decoder = decoder
        self.add_encoders(encoders, self.decoder.get_input_embeddings().embedding_dim)
        self._traits: DecoderTraits | None = None
        self.post_init()

    @property
    def stacks(self) -> list[Any]:
        return [self.decoder, *super().stacks]

    @property
    def text_model(self) -> Any:
        """The model of transformers that generates texts."""
        return self.decoder

    @property
    def traits(self) -> DecoderTraits:
        """Measured properties of the decoder (measured once)."""
        if self._traits is None:
            self._traits = measure_decoder(self.decoder, self.max_positions)
        return self._traits

    @property
    def max_positions(self) -> int | None:
        """Maximum number of positions of the decoder; None if it computes them for any length."""
        return positions_of_decoder(self.decoder.config)

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    # -- input vectors ------------------------------------------------------------------------------------------------

    def dock_vectors(self, name: str, table: DockTable) -> Tensor:
        """Compute the connector's vectors of all distinct contents, followed by those of the table: ``[v, d]``.

        Raises:
            MetalmError: They are not as many as the positions that the table has for them.
        """
        if not table.inputs:
            assert table.vectors is not None, "a table has inputs or vectors"
            return table.vectors
        outputs = self.docked_outputs(name, table)
        vectors = connected(self, name, outputs, table)
        return vectors if table.vectors is None else torch.cat([vectors, table.vectors.to(vectors.dtype)])

    def embed(self, input_ids: Tensor, docks: dict[str, DockTable] | None = None) -> Tensor:
        """Build the decoder's input vectors, without positions.

        Args:
            input_ids: ``[b, s]``; any value at docked positions.
            docks: Dock tables by encoder name.

        Returns:
            ``[b, s, d]``
        """
        embeds = self.decoder.get_input_embeddings()(input_ids)
        if not docks:
            return embeds
        flat = embeds.reshape(-1, embeds.shape[-1])
        for name, table in docks.items():
            vectors = self.dock_vectors(name, table)[table.content_index]
            flat = flat.index_copy(0, table.positions, vectors.to(flat.dtype))
        return flat.view_as(embeds)

    # -- losses -------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of the batch's trained tokens.

        Args:
            batch: Rows, with docks.
            weights: Weight of each target, or None for 1. ``[m]``

        Returns:
            The weighted sum in nats (differentiable), and the loss of each target without gradient, ``[m]``.
        """
        return self._cross_entropy(self._target_states(batch.decoder, batch.docks), batch.decoder.targets, weights)

    def distilled_losses(
        self, batch: Batch, weights: Tensor | None = None, *, adapted_teacher: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the cross-entropy, and the divergence from the decoder reading the docks as text.

        Args:
            batch: Rows with docks and their ``teacher``.
            weights: Weight of each target in the cross-entropy, or None for 1. ``[m]``
            adapted_teacher: The teacher reads with the decoder's adapters, if it has some.

        Returns:
            As :meth:`losses`, and the sum of the divergences at the teacher's targets in nats (differentiable).
        """
        assert batch.teacher is not None
        # First with gradient: autocast keeps the casts of weights, and those made without gradient would have none.
        states = self._target_states(batch.decoder, batch.docks)
        total, target_losses = self._cross_entropy(states, batch.decoder.targets, weights)
        teacher_states = self.teacher_states(batch.teacher, adapted=adapted_teacher)
        student_states = states[batch.teacher.student_targets]
        if self.traits.has_known_head:
            return total, target_losses, linear_divergence(student_states, head_of(self.decoder), teacher_states)[0]
        return total, target_losses, divergence(student_states, teacher_states).sum()

    @torch.no_grad()
    def teacher_states(self, teacher: TeacherTokens, *, adapted: bool = True) -> Tensor:
        """Run the decoder over docks read as text, in evaluation mode.

        Args:
            teacher: Letter: k targets.
            adapted: With the decoder's adapters, if it has some.

        Returns:
            Its states that predict the targets: ``[k, h]``, or logits if the head is unknown, ``[k, v]``.
        """
        with teacher_mode(self.decoder, adapted=adapted):
            states = [self._target_states(tokens, {}) for tokens in teacher.passes]
        if states:
            return torch.cat(states)
        head: Any = head_of(self.decoder).weight
        return head.new_zeros(0, head.shape[1 if self.traits.has_known_head else 0])

    def _target_states(self, tokens: PackedTokens, docks: dict[str, DockTable]) -> Tensor:
        """Hidden states that predict the targets, ``[m, h]``; logits in fp32 if the head is unknown, ``[m, v]``."""
        embeds, switch = self.embed(tokens.input_ids, docks), self.traits.length_switch
        if not self.traits.has_known_head:
            logits = full_logits(self.decoder, embeds, tokens, length_switch=switch)
            return logits.flatten(0, 1)[tokens.predict_at].float()
        hidden = hidden_states(self.decoder, embeds, tokens, length_switch=switch)
        return hidden.flatten(0, 1)[tokens.predict_at]

    def _cross_entropy(self, states: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.traits.has_known_head:
            return linear_cross_entropy(states, head_of(self.decoder), targets, weights)
        target_losses = nn.functional.cross_entropy(states, targets, reduction="none")
        return (target_losses if weights is None else target_losses * weights).sum(), target_losses.detach()

    # -- forward and generation ---------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        docks: dict[str, DockTable] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run a causal language model's forward pass, with docks.

        Args:
            input_ids: ``[b, s]``; any value at docked positions.
            docks: Dock tables by encoder name, indexed by flat position (row * s + position).
            labels: As for any causal language model: -100 where nothing is predicted. ``[b, s]``

        Other arguments are passed to the decoder.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embed(input_ids, docks)
        return self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor, docks: dict[str, DockTable] | None = None, **kwargs: Any) -> Tensor:
        """Generate continuations with the decoder's own ``generate``.

        Args:
            input_ids: Prompts, all of one length or padded on the left with an ``attention_mask``. ``[b, s]``
            docks: Dock tables by encoder name.

        Returns:
            The new tokens only. ``[b, n]``
        """
        kwargs.setdefault("attention_mask", torch.ones_like(input_ids))
        return self.decoder.generate(inputs_embeds=self.embed(input_ids, docks), **kwargs)


def register() -> None:
    """Register MetaLM with ``AutoConfig`` and ``AutoModelForCausalLM``."""
    AutoConfig.register("metalm", MetaLMConfig, exist_ok=True)
    AutoModelForCausalLM.register(MetaLMConfig, MetaLM, exist_ok=True)
