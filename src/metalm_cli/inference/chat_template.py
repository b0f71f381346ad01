"""Chat templates: a text as the user's turn, as the chat template of a checkpoint's tokenizer writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal

if TYPE_CHECKING:
    from metalm_cli.inference.language_model import LanguageModel


def check_chat_template(language_model: LanguageModel) -> str:
    """Return the chat template of the tokenizer.

    Raises:
        MetalmError: The tokenizer has none.
    """
    template = getattr(language_model.tokenizer, "chat_template", None)
    if not template:
        raise MetalmError(
            "the tokenizer has no chat template",
            where=language_model.source,
            why="the checkpoint was not trained on chats, or was saved without its template",
            remedy="omit --chat, or use a checkpoint with a chat template",
        )
    return str(template)


def user_turn(language_model: LanguageModel, text: str) -> Causal:
    """Return the turn of a user up to the beginning of the reply, by the chat template of the tokenizer.

    Args:
        language_model: The model.
        text: The user's message.

    Returns:
        The ids of the rendered template. A start token that the template writes is left out if the model's token rules
        add it to the session.

    Raises:
        MetalmError: The tokenizer has no chat template, or the template fails.
    """
    from jinja2 import TemplateError

    check_chat_template(language_model)
    tokenizer = language_model.tokenizer
    messages = [{"role": "user", "content": text}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise MetalmError(
            "the chat template of the tokenizer fails",
            where=language_model.source,
            why=str(error),
            remedy="omit --chat, and write the turns into the text",
        ) from error
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    rules = language_model.decoder_tokenizer
    if ids and rules.needs_start_token(True, False) and ids[0] == rules.start_id:
        ids = ids[1:]
    return Causal(tuple(ids))
