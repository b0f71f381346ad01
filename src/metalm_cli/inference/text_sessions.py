"""Sessions of texts and images: docked, causal, or a user's turn as the tokenizer's chat template writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.config_files import load_config
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.checkpoint_io import find_config_folder
from metalm_cli.models.families import family_of_model
from metalm_cli.sessions import Causal, Docked, Session, Span, TokenisedSession

if TYPE_CHECKING:
    from metalm_cli.inference.language_model import LanguageModel

Place = Literal["docked", "causal", "chat"]


@dataclass(frozen=True)
class PromptRoute:
    """Route of a text into the session.

    Args:
        place: ``docked`` into the text encoder (a model without a text encoder reads it as causal text), ``causal``, or
            ``chat``: the decoder reads it as a user's turn, by the chat template of its tokenizer.
        prompt: Beginning of the answer, after the target delimiter; a reply to a chat begins with it.
        encoder: Encoder that docked texts go into; None: the text encoder.
    """

    place: Place = "docked"
    prompt: str = ""
    encoder: str | None = None


def check_continues(language_model: LanguageModel) -> None:
    """Check that a model continues texts.

    Raises:
        MetalmError: It is a dual encoder.
    """
    if not family_of_model(language_model.model).generates:
        raise MetalmError(
            "a dual encoder continues no texts",
            where=language_model.source,
            why="it embeds images and texts (objective contrastive), and has no decoder",
            remedy="compare embeddings, embed_images(…) @ embed_texts(…).T, or score it on tasks (metalm evaluate); or "
            "use a MetaLM, a decoder or an encoder–decoder",
        )


def text_to_session(
    language_model: LanguageModel, text: str, image: Any = None, route: PromptRoute = PromptRoute(), name: str = ""
) -> Session:
    """Build the session of a text, an image, or both.

    The image comes first. A fused encoder reads image and text in one dock.

    Args:
        language_model: The model.
        text: The text, or an empty string.
        image: Path or PIL image, or None.
        route: Route of the text.
        name: Name of the session in errors.

    Raises:
        MetalmError: The model continues no texts, text, image and prompt are all empty, the model has no encoder for an
            image, its tokenizer has no chat template, or the encoder of the text is unknown or not chosen.
    """
    check_continues(language_model)
    spans: list[Span] = []
    if image is not None:
        encoder, fused = image_encoder(language_model)
        content: Any = {"image": image} if fused else image
        if fused and text and route.place == "docked":
            content, text = {**content, "text": text}, ""
        spans.append(Docked(encoder, content))
    if text and route.place == "chat":
        spans.append(user_turn(language_model, text))
    elif text:
        reader = text_encoder(language_model, route.encoder) if route.place == "docked" else None
        spans.append(Docked(reader, text) if reader else Causal(text))
    if route.prompt:
        has_delimiter = bool(spans) and route.place != "chat"
        delimiter = language_model.decoder_tokenizer.rules.target_delimiter if has_delimiter else ""
        spans.append(Causal(delimiter + route.prompt))
    if not spans:
        raise MetalmError(f"{name or 'the session'} has no text", remedy="give a text, an image or a prompt")
    return Session(spans, name)


def text_encoder(language_model: LanguageModel, name: str | None = None) -> str | None:
    """Return the encoder that texts are docked into: the named one, ``text``, or the only text encoder.

    For a model without encoders the result is ``text``, because its docked spans are lowered to causal text. The result
    is None if none of the model's encoders reads text.

    Args:
        language_model: The model.
        name: Name of the encoder, if it is chosen.

    Raises:
        MetalmError: The model has no text encoder of this name, or several, and none is chosen.
    """
    if not language_model.processors:
        return "text"
    names = _encoders_of_kind(language_model, "text")
    if name is not None and name not in names:
        raise MetalmError(
            f"the model has no text encoder {name!r}",
            where=language_model.source,
            why=f"its text encoders: {', '.join(names) or 'none'}",
            remedy="name one of them" if names else "omit --encoder",
        )
    if name is None and "text" not in names and len(names) > 1:
        raise MetalmError(
            f"the model has {len(names)} text encoders, and nothing chooses one",
            where=language_model.source,
            why=f"they are {', '.join(names)}, and none is called text",
            remedy=f"name one: --encoder {names[0]}; in Python, Docked({names[0]!r}, text)",
        )
    return name or _first_encoder_of_kind(language_model, "text")


def image_encoder(language_model: LanguageModel) -> tuple[str, bool]:
    """Return the encoder that images are docked into, and whether it is fused.

    Raises:
        MetalmError: The model has no such encoder.
    """
    for kind in ("vision", "fused"):
        encoder = _first_encoder_of_kind(language_model, kind)
        if encoder is not None:
            return encoder, kind == "fused"
    raise no_image_encoder({name: each.kind for name, each in language_model.model.encoder_ios.items()})


def check_reads_images(source: str, offline: bool = False) -> None:
    """Check by its config alone that a model has an encoder of images.

    Args:
        source: The model, as :func:`metalm_cli.load` takes it.
        offline: Do not access the network.

    Raises:
        MetalmError: It has none; or the model is not found, or its config is damaged.
    """
    folder = find_config_folder(source, offline=offline)
    with model_errors(folder):
        docking = getattr(load_config(folder, remote_code=False), "docking", None) or {}
    kinds = {name: str(options.get("kind")) for name, options in docking.items()}
    if not {"vision", "fused"} & set(kinds.values()):
        raise no_image_encoder(kinds)


def no_image_encoder(kinds: Mapping[str, str]) -> MetalmError:
    """Return the error of a model without an encoder of images.

    Args:
        kinds: Kinds of its encoders, by name.
    """
    encoders = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    return MetalmError(
        "the model has no encoder that reads images",
        why=f"its encoders: {encoders}" if encoders else "the model is a decoder without encoders",
        remedy="use a model with a vision encoder, or leave the image out",
    )


def _encoders_of_kind(language_model: LanguageModel, kind: str) -> list[str]:
    return [name for name, encoder_io in language_model.model.encoder_ios.items() if encoder_io.kind == kind]


def _first_encoder_of_kind(language_model: LanguageModel, kind: str) -> str | None:
    names = _encoders_of_kind(language_model, kind)
    return kind if kind in names else next(iter(names), None)


def answer_delimiter(language_model: LanguageModel, session: Session) -> str | None:
    """Return the target delimiter that an answer to a session begins with; None if it continues causal text."""
    is_docked = bool(session.spans) and isinstance(session.spans[-1], Docked)
    return language_model.decoder_tokenizer.rules.target_delimiter if is_docked else None


def prompt_list(prompts: Iterable[Session | str]) -> list[Session | str]:
    """Return the prompts as a list.

    Raises:
        MetalmError: The argument is a single prompt, or contains something other than texts and sessions.
    """
    checked: list[Session | str] = [prompts] if isinstance(prompts, Session | str) else list(prompts)
    wrong = next((prompt for prompt in checked if not isinstance(prompt, Session | str)), None)
    if wrong is not None or isinstance(prompts, Session | str):
        got = f"one {type(prompts).__name__}" if wrong is None else f"a list with {type(wrong).__name__}"
        raise MetalmError(
            f"expected a list of texts or sessions, got {got}",
            remedy='write ["some text"], or [metalm.Session([metalm.Causal("some text")])]',
        )
    return checked


def session_list(sessions: Iterable[Session]) -> list[Session]:
    """Return the sessions as a list.

    Raises:
        MetalmError: The argument is a single session, or contains something other than sessions.
    """
    checked = [sessions] if isinstance(sessions, Session | str) else list(sessions)
    if isinstance(sessions, Session | str) or not all(isinstance(session, Session) for session in checked):
        first_wrong = next((session for session in checked if not isinstance(session, Session)), checked[0])
        raise MetalmError(
            f"expected a list of sessions, got {type(first_wrong).__name__}",
            remedy='write [metalm.Session([metalm.Causal("some text")])]',
        )
    return checked


def why_full(session: TokenisedSession, required: int) -> str:
    """Say how many positions of a session are docks, and that generation needs another one."""
    docked = sum(dock.positions for _, dock in session.docks)
    parts = [f"{len(session.docks)} docked, in {docked} positions"] if docked else []
    parts += ["generation needs at least one more position"] if required else []
    return "; ".join(parts)


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
