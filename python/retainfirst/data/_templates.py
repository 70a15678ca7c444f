"""Questions and conversations as text: by the tokenizer's chat template, or as plain lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any

from retainfirst.data._clock import CLOCK_VARIABLE, DEFAULT_NOW, clock_formats, with_fixed_clock
from retainfirst.data._padding import tokenizer_name
from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["CHAT_TEMPLATE_MODES", "ChatTemplate", "Rendered", "as_messages", "check_mode", "plain", "use_template"]

CHAT_TEMPLATE_MODES = ("auto", "always", "never")
"""Whether questions and messages go through the tokenizer's chat template: if it has one, always, never."""

# Llama's templates print today's date unless they are given one.
_TEMPLATE_DATE = "26 Jul 2024"

# Stands in for the answer. Letters only: no template trims or splits it.
_STAND_IN = "RetainfirstAnswer"

_SHOWN = 200

_ADVICE = "Use another chat template, or none (chat_template='never', --chat-template never on the command line)."

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: The conversation up to the answer's end token.
        start: Where the answer starts in the text.
        ended: Whether the text has an end token after the answer.
    """

    text: str
    start: int
    ended: bool

    def follows(self, prompt: str) -> bool:
        """Tell whether the text starts with this prompt, and the answer after it."""
        return self.text.startswith(prompt) and self.start >= len(prompt)


class _Unsuitable(Exception):
    """A rendering whose labels would be wrong; the text says why."""


def as_messages(row: Mapping[str, Any], form: str) -> list[Message]:
    """Return a question or a conversation as messages of which the last is the assistant's."""
    if form == "answer":
        given = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    else:
        given = list(row["messages"])
    while given[-1]["role"] != "assistant":
        given.pop()
    # Further keys, such as reasoning, are for the template. Data sets fill in null for keys that only other messages have;
    # formatted for numpy, their strings are of numpy's type.
    return [
        {
            **{key: value for key, value in m.items() if value is not None},
            "role": str(m["role"]),
            "content": str(m["content"]),
        }
        for m in given
    ]


def check_mode(chat_template: str) -> None:
    """Refuse a mode that is not one of :data:`CHAT_TEMPLATE_MODES`."""
    if chat_template not in CHAT_TEMPLATE_MODES:
        raise RetainFirstError(
            f"Unknown chat template mode {chat_template!r}. {did_you_mean(str(chat_template), CHAT_TEMPLATE_MODES)}"
        )


def use_template(tokenizer: Any, chat_template: str) -> bool:
    """Decide by mode and tokenizer; refuse ``"always"`` where there is no template."""
    present = bool(getattr(tokenizer, "chat_template", None))
    if chat_template == "always" and not present:
        raise RetainFirstError(
            f"The tokenizer of {tokenizer_name(tokenizer)} has no chat template. Use 'auto' or 'never'."
        )
    return present and chat_template != "never"


def plain(messages: Sequence[Message], *, questions: bool) -> Rendered:
    """Return the conversation as lines that begin with the speaker; the space before the answer counts to the answer."""
    names = {"user": "Question", "assistant": "Answer"} if questions else {}
    turns = [f"{names.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages]
    text = "\n".join(turns)
    return Rendered(text, start=len(text) - len(f" {messages[-1]['content']}"), ended=False)


class ChatTemplate:
    """A tokenizer's chat template, which renders a conversation and finds the answer in it.

    The answer is found by rendering the conversation a second time with other text in the answer's place. Content is
    given as a string, or as a list of parts to templates that drop strings. Some templates put the system prompt into
    the last user turn and drop it once an answer follows; the answer is then joined to the prompt as the template
    renders it for generation.

    Args:
        tokenizer: A tokenizer of transformers with a chat template.
        now: The time that the template sees; None: :data:`DEFAULT_NOW`.

    Raises:
        RetainFirstError: The tokenizer has several templates and no default one.
    """

    def __init__(self, tokenizer: Any, now: datetime | None = None) -> None:
        self._tokenizer = tokenizer
        try:
            template: str = tokenizer.get_chat_template()
        except ValueError as error:
            raise RetainFirstError(f"The tokenizer of {tokenizer_name(tokenizer)}: {error}") from error
        self._can_think = "enable_thinking" in template
        # Text, not tokens: the type of apply_chat_template's tokens differs between versions.
        self._options: dict[str, Any] = {"tokenize": False, "date_string": _TEMPLATE_DATE}
        fixed = with_fixed_clock(template)
        if fixed is not None:
            self._options |= {"chat_template": fixed, CLOCK_VARIABLE: clock_formats(template, now or DEFAULT_NOW)}
        special = {*tokenizer.all_special_tokens}
        special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        # Some formats end answers with a token that was added, but not as a special one.
        self._end_tokens = [_any_of(special), _any_of({*tokenizer.get_added_vocab()})]
        self._warned = False

    def render(self, messages: Sequence[Message], where: str) -> Rendered:
        """Render a conversation whose last message is the answer.

        Args:
            messages: At least two, each with role and content; the last is the answer.
            where: The row's place, for the error text.

        Returns:
            The conversation up to the answer's end token, and where the answer starts.

        Raises:
            RetainFirstError: The template refuses the messages, leaves one out or changes the answer.
        """
        problems = []
        for shape_prompt, shape_answer in product((_as_string, _in_parts), repeat=2):
            try:
                return self._render(messages, [shape_prompt(m) for m in messages[:-1]], shape_answer)
            except _Unsuitable as problem:
                problems.append(str(problem))
        raise RetainFirstError(f"{where}: the chat template {problems[0]}")

    def _render(
        self, messages: Sequence[Message], prompt: Sequence[Message], shape: Callable[[Message], Message]
    ) -> Rendered:
        """Render the conversation with the prompt in this shape, and the answer in that which ``shape`` gives it."""
        *asked, answer = messages
        before = self._apply(prompt, answer, generate=True)
        found = self._located(prompt, answer, shape)
        if not found.follows(before):
            joined = self._joined(before, prompt[-1], answer, shape)
            if joined is not None and _missing(asked, joined) is None:
                return joined
        missing = _missing(asked, found)
        if missing is not None:
            labelled = found.text[_common_length(before, found.text) :]
            raise _Unsuitable(f"leaves out {missing}. After the prompt it writes {_short(labelled)}. {_ADVICE}")
        return found

    def _located(self, prompt: Sequence[Message], answer: Message, shape: Callable[[Message], Message]) -> Rendered:
        """Render the conversation and find the answer in it."""
        stand_in, content = _STAND_IN, answer["content"]
        while any(stand_in in str(message["content"]) for message in prompt):
            stand_in += "X"
        whole, other = (
            self._apply([*prompt, shape({**answer, "content": text})], answer) for text in (content, stand_in)
        )
        if other.count(stand_in) != 1:
            verb = "leaves out the answer" if stand_in not in other else "writes the answer more than once"
            raise _Unsuitable(f"{verb} {_short(content)}. It writes {_short(whole[-_SHOWN:])}. {_ADVICE}")
        head, tail = other.split(stand_in)
        body = whole.removesuffix(tail)
        if body == head + content:
            start: int | None = len(head)
        else:
            start = _where_it_starts(body, content) if whole.endswith(tail) else None
        if start is None:
            labelled = whole[_common_length(head, whole) :]
            raise _Unsuitable(f"changes the answer {_short(content)}. It writes {_short(labelled)}. {_ADVICE}")
        end = next((end for tokens in self._end_tokens if (end := tokens.search(tail))), None)
        if end is None:
            self._warn(tail)
            return Rendered(body, start, ended=False)
        if tail[: end.start()].strip():
            labelled = whole[start : len(body) + end.end()]
            raise _Unsuitable(f"adds text between the answer and its end token: {_short(labelled)}. {_ADVICE}")
        return Rendered(body + tail[: end.end()], start, ended=True)

    def _joined(
        self, before: str, last: Message, answer: Message, shape: Callable[[Message], Message]
    ) -> Rendered | None:
        """Put the answer after the whole prompt, as the template puts it after the last message alone."""
        try:
            short_before = self._apply([last], answer, generate=True)
            short = self._located([last], answer, shape)
        except _Unsuitable:
            return None
        if not short.follows(short_before):
            return None
        return Rendered(
            before + short.text[len(short_before) :], short.start + len(before) - len(short_before), short.ended
        )

    def _apply(self, messages: Sequence[Message], answer: Message, *, generate: bool = False) -> str:
        # Templates with this switch write reasoning marks before answers that have no reasoning, unless it is off.
        reasoned = "</think>" in answer["content"] or any("reasoning" in key or "thinking" in key for key in answer)
        switch = {"enable_thinking": False} if self._can_think and not reasoned else {}
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=generate, **self._options, **switch
            )
        except Exception as error:  # templates raise their own errors, such as for a role that they do not know
            raise _Unsuitable(f"refuses the messages: {error}") from error
        return text

    def _warn(self, tail: str) -> None:
        if tail.strip() and not self._warned:
            self._warned = True
            logger.warning(
                "The chat template of %s writes %r after an answer, which holds no special token of the tokenizer. "
                "Rows stop after the answer, with the end-of-sequence token.",
                tokenizer_name(self._tokenizer),
                tail,
            )


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    """Match any of the tokens, the longest first; white space is no token that ends anything."""
    marks = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, marks)) or "(?!)")


def _as_string(message: Message) -> Message:
    return message


def _in_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")


def _common_length(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _missing(messages: Sequence[Message], found: Rendered) -> str | None:
    """Name the first message that does not stand before the answer."""
    before = _squeezed(found.text[: found.start])
    for number, message in enumerate(messages, start=1):
        content = message["content"].strip()
        if message["role"] == "assistant":
            # Templates drop the reasoning of earlier answers, which comes first.
            content = content.rpartition("\n")[2].rpartition("</think>")[2]
        if _squeezed(content) not in before:
            return f"message {number} ({message['role']}), {_short(message['content'])}"
    return None


def _where_it_starts(body: str, answer: str) -> int | None:
    """Find the answer at the end of a text whatever its white space; None if it is not there."""
    position = len(body)
    for letter in reversed(_squeezed(answer)):
        while position and body[position - 1].isspace():
            position -= 1
        if not position or body[position - 1] != letter:
            return None
        position -= 1
    return position
