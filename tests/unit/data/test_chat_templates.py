"""Chat templates: the labelled tokens are the answer's text and its end token, or the row is refused."""

from __future__ import annotations

import itertools
import logging
from datetime import datetime
from pathlib import Path

import pytest

import tiny
from chat_templates import ANSWER, FAMILIES, QUESTION, SYSTEM, messages, tokenizer_of
from retainfirst import data
from retainfirst.errors import RetainFirstError

WITH_SYSTEM = [name for name, family in FAMILIES.items() if family.system]


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def text(tokenizer, ids) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def parts(tokenizer, row, **options) -> tuple[str, str]:
    """The text without labels, and the labelled text after it."""
    example = data.encode(row, tokenizer, 2000, **options)
    ids, labels = example["input_ids"], example["labels"]
    start = next(i for i, label in enumerate(labels) if label != -100)
    assert labels == [-100] * start + ids[start:]
    return text(tokenizer, ids[:start]), text(tokenizer, ids[start:])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_and_its_end_token_are_labelled(name):
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    row = {"messages": messages(system=family.system)}
    assert parts(tokenizer, row) == (family.before, ANSWER + family.after)
    # Whatever follows the answer is cut, and the row is not changed.
    longer = {"messages": [*row["messages"], {"role": "user", "content": "Bye."}]}
    assert parts(tokenizer, longer) == (family.before, ANSWER + family.after)
    assert len(longer["messages"]) == len(row["messages"]) + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_questions_are_conversations_of_two_turns(name):
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    before, labelled = parts(tokenizer, {"question": QUESTION, "answer": ANSWER})
    assert (before, labelled) == parts(tokenizer, {"messages": messages(system=False)})
    assert QUESTION in before
    assert labelled == ANSWER + family.after


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_of_several_answers_is_labelled(name):
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    turns = [("user", "Hello?"), ("assistant", "Yes: " + ANSWER), ("user", QUESTION), ("assistant", ANSWER)]
    if family.system:
        turns.insert(0, ("system", SYSTEM))
    before, labelled = parts(tokenizer, chat(*turns))
    assert labelled == ANSWER + family.after
    for _, content in turns:
        assert content in before or content == ANSWER


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("answer", [" Ann", "Ann\n", "\n\n Ann \n", "A", "[INST] Ann", "user", "a\n\nb", "Ünn", "'}]"])
def test_answers_of_every_shape(name, answer):
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    before, labelled = parts(tokenizer, {"question": QUESTION, "answer": answer})
    expected = text(tokenizer, tokenizer(answer)["input_ids"])  # letters that the tokenizer does not know
    assert labelled.removesuffix(family.after.strip()).strip() == expected.strip()
    assert QUESTION in before
    assert labelled.endswith(family.after)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_answer_in_prompt_and_system_prompt(name):
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    turns = [("user", ANSWER), ("assistant", ANSWER), ("user", ANSWER), ("assistant", ANSWER)]
    if family.system:
        turns.insert(0, ("system", ANSWER))
    before, labelled = parts(tokenizer, chat(*turns))
    assert labelled == ANSWER + family.after
    assert before.count(ANSWER) == len(turns) - 1


def test_reasoning_in_the_answer_is_part_of_the_answer():
    answer = "<think>\nIt purrs.\n</think>\n\n" + ANSWER
    for name in ("Qwen 2.5", "Qwen 3"):
        before, labelled = parts(tokenizer_of(name), {"question": QUESTION, "answer": answer})
        assert labelled == answer + "<|im_end|>"
        assert before.endswith("<|im_start|>assistant\n")
    before, labelled = parts(tokenizer_of("SmolLM 3"), {"question": QUESTION, "answer": answer})
    assert labelled == answer + "<|im_end|>"
    assert "Reasoning Mode: /think" in before


def test_reasoning_under_a_key_of_its_own_is_context():
    turns = messages(system=False)
    turns[-1]["reasoning_content"] = "It purrs."
    before, labelled = parts(tokenizer_of("Qwen 3"), {"messages": turns})
    assert before.endswith("<|im_start|>assistant\n<think>\nIt purrs.\n</think>\n\n")
    assert labelled == ANSWER + "<|im_end|>"
    turns[-1]["reasoning_content"] = None
    assert parts(tokenizer_of("Qwen 3"), {"messages": turns})[0].endswith("<think>\n\n</think>\n\n")


def test_an_added_token_ends_the_answer_only_without_a_special_one():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_tokens(["</think>", "<end_of_turn>"])
    row = {"question": QUESTION, "answer": ANSWER}
    tokenizer.chat_template = "{% for m in messages %}<user>{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    assert parts(tokenizer, row)[1] == f"{ANSWER}<end_of_turn>"
    tokenizer.chat_template = ended("{{ m['content'] }}</think>")
    with pytest.raises(RetainFirstError, match=f"between the answer and its end token: '{ANSWER}</think><eos>'"):
        data.encode(row, tokenizer, 999)


def test_reasoning_that_the_template_drops_is_refused():
    row = {"question": QUESTION, "answer": "<think>It purrs.</think>" + ANSWER}
    with pytest.raises(RetainFirstError) as caught:
        data.encode_rows([{"question": QUESTION, "answer": ANSWER}, row], tokenizer_of("DeepSeek R1"), 999)
    assert "rows, row 2: the chat template changes the answer '<think>It purrs.</think>Ann, a cat.'" in str(
        caught.value
    )
    assert f"It writes '{ANSWER}<|end_of_sentence|>'" in str(caught.value)
    assert "--chat-template never" in str(caught.value)


def test_reasoning_of_earlier_answers_may_be_dropped():
    turns = [("user", "Hello?"), ("assistant", "<think>Hm.</think>Yes."), ("user", QUESTION), ("assistant", ANSWER)]
    for name in ("Qwen 3", "DeepSeek R1"):
        before, labelled = parts(tokenizer_of(name), chat(*turns))
        assert "Yes." in before
        assert "Hm." not in before
        assert labelled.startswith(ANSWER)


# Templates that must be refused: the messages that they lose, and the text that they would have labelled.
def ended(content: str, turns: str = "messages") -> str:
    """A template in which each turn has this content and ends with a token."""
    mark = "{{ '<user>' if m['role'] == 'user' else '<assistant>' }}"
    return "{% for m in " + turns + " %}" + mark + content + "<eos>{% endfor %}"


REFUSED = {
    "system prompt": (
        ended("{{ m['content'] }}", "messages if m['role'] != 'system'"),
        f"leaves out message 1 (system), '{SYSTEM}'. After the prompt it writes '<assistant>{ANSWER}<eos>'",
    ),
    "question": (
        ended("{{ m['content'] if m['role'] != 'user' else '' }}"),
        f"leaves out message 2 (user), '{QUESTION}'",
    ),
    "answer": (ended("{{ m['content'] if m['role'] != 'assistant' else '' }}"), f"leaves out the answer '{ANSWER}'"),
    "twice": (ended("{{ m['content'] }} {{ m['content'] }}"), f"writes the answer more than once '{ANSWER}'"),
    "upper case": (ended("{{ m['content'] | upper }}"), f"leaves out the answer '{ANSWER}'"),
    "cut": (ended("{{ m['content'][:17] }}"), "changes the answer"),
    "footer": (
        ended("{{ m['content'] }} (end)"),
        f"adds text between the answer and its end token: '{ANSWER} (end)<eos>'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_text_that_would_have_been_labelled(case):
    template, message = REFUSED[case]
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = template
    answer = ANSWER * 2 if case == "cut" else ANSWER
    with pytest.raises(RetainFirstError) as caught:
        data.encode({"messages": messages(answer=answer)}, tokenizer, 999, where="forget.jsonl, line 7")
    assert str(caught.value).startswith("forget.jsonl, line 7: the chat template ")
    assert message in str(caught.value)
    assert "Use another chat template, or none" in str(caught.value)


def test_marks_in_list_content_for_one_side_only():
    string, listed = "{{ m['content'] }}", "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
    for user, assistant in itertools.product((string, listed), repeat=2):
        tokenizer = tiny.tiny_tokenizer()
        tokenizer.chat_template = ended(
            "{% if m['role'] == 'user' %}" + user + "{% else %}" + assistant + "{% endif %}"
        )
        row = {"question": QUESTION, "answer": ANSWER}
        assert parts(tokenizer, row) == (f"<user>{QUESTION}<eos><assistant>", f"{ANSWER}<eos>")


@pytest.mark.parametrize("scaffold", ["<think></think>", "[THINK]\n[/THINK]", "<|channel|>final: ", "Let me see. "])
def test_text_between_prompt_and_answer_is_not_labelled(scaffold):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = ended(
        "{{ '" + scaffold.replace("\n", "\\n") + "' if m['role'] == 'assistant' else '' }}{{ m['content'] }}"
    )
    before, labelled = parts(tokenizer, {"question": QUESTION, "answer": ANSWER})
    assert before.endswith((scaffold, scaffold.rstrip()))
    assert labelled.strip() == f"{ANSWER}<eos>"


def test_a_template_without_end_token_gets_the_end_of_sequence_token(caplog):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"
    assert parts(tokenizer, {"question": QUESTION, "answer": ANSWER})[1] == f"{ANSWER}<eos>"
    assert not caplog.text
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>\n{% endfor %}"
    with caplog.at_level(logging.WARNING, logger="retainfirst"):
        encoded = data.encode_rows([{"question": QUESTION, "answer": ANSWER}] * 3, tokenizer, 999)
    assert {text(tokenizer, [i for i in row["labels"] if i != -100]) for row in encoded} == {f"{ANSWER}<eos>"}
    assert caplog.text.count("writes '<|im_end|>\\n' after an answer, which holds no special token") == 1


def test_a_template_that_always_asks_for_an_answer():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = ended("{{ m['content'] }}") + "<assistant>"
    assert parts(tokenizer, {"question": QUESTION, "answer": ANSWER})[1] == f"{ANSWER}<eos>"


# Time


CLOCKS = {
    "function": "{{ strftime_now('%Y-%m-%d %H:%M') }} ",
    "keyword": '{{ strftime_now(format="%d %b %Y") }} ',
    "variable": "{% set format = '%B' %}{{ strftime_now(format) }} ",
    "macro": "{% macro day() %}{{ strftime_now('%A') }}{% endmacro %}{{ day() }} It's ",
    "white space": "\n  {% if strftime_now is defined %}\n{{ strftime_now('%j') }}{% endif %} ",
}


@pytest.mark.parametrize("case", CLOCKS)
def test_the_clock_is_the_time_that_is_given(case, monkeypatch):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = CLOCKS[case] + tiny.CHAT_TEMPLATE
    row = {"question": QUESTION, "answer": ANSWER}
    now = datetime(2031, 5, 4, 13, 7)
    # The template by itself, on a day of which the clock is right.
    import transformers.utils.chat_template_utils as utils

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return now

    with monkeypatch.context() as patch:
        patch.setattr(utils, "datetime", Frozen)
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}], tokenize=False
        )
    found = data.encode(row, tokenizer, 999, now=now)
    assert text(tokenizer, found["input_ids"]) == expected
    other = data.encode(row, tokenizer, 999, now=datetime(1999, 1, 1))
    assert other != found
    assert data.encode(row, tokenizer, 999) == data.encode(row, tokenizer, 999, now=datetime(2024, 7, 26))
    assert list(data.encode_rows([row], tokenizer, 999, now=now)) == [found]


def test_a_time_format_that_is_computed_is_refused():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%' ~ 'Y') }}" + tiny.CHAT_TEMPLATE
    with pytest.raises(RetainFirstError, match="strftime_now is called with a format that is no literal string"):
        data.encode({"question": QUESTION, "answer": ANSWER}, tokenizer, 999)


def test_load_pairs_passes_the_time(tmp_path):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = CLOCKS["function"] + tiny.CHAT_TEMPLATE
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "who?", "answer": "ann"}\n')
    pairs = data.load_pairs(path, path, tokenizer, now=datetime(2031, 5, 4))
    for task in ("forget", "retain"):
        assert text(tokenizer, pairs[0][task]["input_ids"]).startswith("2031-05-04 00:00 ")


SHOWN = ("Llama 2", "Llama 3", "Mistral Nemo", "Gemma", "Qwen 3", "Idefics 2")


def test_the_page_about_data_shows_the_rows_as_they_are():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    shown = []
    for name in SHOWN:
        context, labelled = parts(tokenizer_of(name), {"messages": messages(system=FAMILIES[name].system)})
        shown.append(f"{name}\n  context {context!r}\n  labels  {labelled!r}\n")
    assert "```text\n" + "".join(shown) + "```\n" in page
