"""Formats of instruction data that need no card: what their records look like, and which texts are input and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalm_cli.common.tar_shards import IMAGE_COLUMNS as SHARD_IMAGE_COLUMNS
from metalm_cli.common.tar_shards import KEY_COLUMN

CHAT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
"""Other names of the roles ``system``, ``user`` and ``assistant``, as ShareGPT files have them."""
ANSWERING_ROLES = ["assistant", *(name for name, role in CHAT_ROLES.items() if role == "assistant")]
IMAGE_MARK = "<image>"
"""Text of a conversation that stands for the next image."""
IMAGE_COLUMNS = ("image", "images")
"""Columns of the images of conversations."""
_SYSTEM = 'system ~ "\\n\\n" if system is defined and system is string and system | trim else ""'
_ALPACA_INPUT = '"\\n\\n" ~ input if input is defined and input is string and input | trim else ""'


@dataclass(frozen=True)
class RecordFormat:
    """A format of records with an input and a target.

    Args:
        name: Name of the format, for the plan and for messages.
        columns: Columns that a record of the format has.
        input: Expression for the input.
        target: Expression for the target.
        row_filter: Expression that is true for records with an answer; None: a record without one is an error.
        messages: Column of a list of messages; empty: the records have no turns.
        role: Key of a message's role.
        content: Key of a message's text.
        metric: Metric of the answers; instructions mostly ask for texts of any wording.
        images: Expression for a record's image or images, which :data:`IMAGE_MARK` in the texts stands for; empty:
            none.
        cluster: Cluster of the records.
    """

    name: str
    columns: tuple[str, ...]
    input: str
    target: str
    row_filter: str | None = None
    messages: str = ""
    role: str = ""
    content: str = ""
    metric: str = "exact_match"
    images: str = ""
    cluster: str = "misc"

    @property
    def may_have_turns(self) -> bool:
        """Whether a record can be a conversation of several turns, so that every record of a file is checked."""
        return bool(self.messages) or self is ALPACA

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the columns of the format, with messages where it has them."""
        if not set(self.columns) <= set(record):
            return False
        if self.messages:
            return is_conversation(record[self.messages], self.role, self.content)
        if self is IMAGE_AND_TEXT:
            return any(column in record for column in SHARD_IMAGE_COLUMNS)
        return self is INPUT_TARGET or isinstance(record[self.columns[0]], str)

    def problem_of(self, record: Any) -> str:
        """Why a record is not a single question with its answer; empty if it is one, or if the format has no turns."""
        if not isinstance(record, Mapping):
            return ""
        if not self.messages:
            return "it has a history of earlier turns" if self is ALPACA and record.get("history") else ""
        messages: Any = record.get(self.messages)
        if not is_conversation(messages, self.role, self.content):
            return f"{self.messages} is not a list of messages with {self.role} and {self.content}"
        roles = [str(message[self.role]) for message in messages]
        roles = [CHAT_ROLES.get(role, role) for role in roles]
        if unknown := [role for role in roles if role not in ("system", "user", "assistant")]:
            return f"it has a message of the role {unknown[0]}"
        if not all(isinstance(message[self.content], str) for message in messages):
            return f"the {self.content} of a message is not a text"
        turns = roles.count("user"), roles.count("assistant")
        if turns != (1, 1):
            return f"it has {turns[0]} messages of the user and {turns[1]} of the assistant"
        if roles[-2:] != ["user", "assistant"]:
            return f"its roles are {', '.join(roles)}"
        return self._image_problem_of(record, messages)

    def _image_problem_of(self, record: Mapping[str, Any], messages: Any) -> str:
        images = record.get(image_column_of(record))
        count = len(images) if isinstance(images, Sequence) and not isinstance(images, str) else int(bool(images))
        marks = sum(message[self.content].count(IMAGE_MARK) for message in messages)
        has_images = bool(self.images) or count > 0
        return f"it has {count} images and {marks} marks {IMAGE_MARK}" if has_images and marks != count else ""


def image_column_of(record: Any) -> str:
    """Return the column of a record's images (LLaVA: ``image``, chat messages: ``images``), or an empty text."""
    if not isinstance(record, Mapping):
        return ""
    return next((column for column in IMAGE_COLUMNS if record.get(column)), "")


def is_conversation(messages: Any, role: str, content: str) -> bool:
    """Whether a value is a list of messages that have a role and a content."""
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and bool(messages)
        and all(isinstance(message, Mapping) and {role, content} <= set(message) for message in messages)
    )


def _chat(name: str, column: str, role: str, content: str) -> RecordFormat:
    texts = f'map(attribute="{content}")'
    question = f'({column} | rejectattr("{role}", "in", {ANSWERING_ROLES}) | {texts} | select | list) | join("\\n\\n")'
    answer = f'{column} | selectattr("{role}", "in", {ANSWERING_ROLES}) | {texts} | first'
    if name == "ShareGPT":
        question = f"({_SYSTEM}) ~ ({question})"
    return RecordFormat(name, (column,), question, answer, f"({answer}) | trim", column, role, content, "rougeL")


INPUT_TARGET = RecordFormat("input and target", ("input", "target"), "input", "target")
ALPACA = RecordFormat(
    "Alpaca",
    ("instruction", "output"),
    f"({_SYSTEM}) ~ instruction ~ ({_ALPACA_INPUT})",
    "output",
    "output is not none and output | string | trim",
    metric="rougeL",
)
PROMPT_COMPLETION = RecordFormat(
    "prompt and completion",
    ("prompt", "completion"),
    "prompt",
    "completion[1:] if completion is string and completion[:1] == ' ' and completion[1:2] != ' ' else completion",
    "completion is not none and completion | string | trim",
)
_SHARD_IMAGE = SHARD_IMAGE_COLUMNS[0] + "".join(f" | default({column})" for column in SHARD_IMAGE_COLUMNS[1:])
IMAGE_AND_TEXT = RecordFormat(
    "images with texts",
    (KEY_COLUMN, "txt"),
    f'"{IMAGE_MARK}"',
    "txt | trim",
    f"txt is defined and txt | trim and ({_SHARD_IMAGE}) is defined",
    metric="cider",
    images=_SHARD_IMAGE,
    cluster="captioning",
)
"""Rows of WebDataset shards with an image and its caption."""
RECORD_FORMATS = (
    INPUT_TARGET,
    _chat("chat messages", "messages", "role", "content"),
    _chat("ShareGPT", "conversations", "from", "value"),
    ALPACA,
    PROMPT_COMPLETION,
    IMAGE_AND_TEXT,
)
"""The formats, in the order in which they are tried."""
FORMAT_COLUMNS = "; ".join(" and ".join(record_format.columns) for record_format in RECORD_FORMATS[:-1])
FORMAT_COLUMNS += "; an image and txt, in a tar shard"
"""The columns of all formats, for messages."""


def format_of(record: Any) -> RecordFormat | None:
    """Return the format of a record, or None.

    >>> format_of({"instruction": "Add.", "input": "1 2", "output": "3"}).name
    'Alpaca'
    """
    if not isinstance(record, Mapping):
        return None
    return next((known for known in RECORD_FORMATS if known.matches(record)), None)
