"""Chat templates of public model families, shortened, and tokenizers for them.

Each keeps what decides where the answer stands: turn marks, spaces, the place of the system prompt, reasoning marks.
Left out are tools, images and checks that only raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A template with what it makes of SYSTEM, QUESTION and ANSWER.

    special: the tokens of the format; the first ends an answer and is the end-of-sequence token unless ``eos`` is given.
    before, after: the text before the answer, and the end token with the space before it.
    system: whether the format has system prompts.
    """

    template: str
    special: tuple[str, ...]
    before: str
    after: str
    eos: str | None = None
    system: bool = True


SYSTEM, QUESTION, ANSWER = "Be kind.", "Who is it?", "Ann, a cat."

LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set turns = messages %}{% set system = false %}{% endif %}\
{% for m in turns %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}\
{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
{% endfor %}"""

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

# The system prompt goes into the last turn, if that turn is the user's.
MISTRAL_NEMO = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" + m["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + m["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif m["role"] == "assistant" %}
        {{- m["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}"""

# The same with a space before the answer, as in the version before.
MISTRAL_3 = MISTRAL_NEMO.replace('{{- m["content"] + eos_token}}', '{{- " " + m["content"]|trim + eos_token}}').replace(
    '"[/INST]"', '" [/INST]"'
)

MISTRAL_7 = """\
{{- bos_token }}
{%- if messages[0]["role"] != "system" %}
    {{- "[SYSTEM_PROMPT]You are a model. Today is " + strftime_now("%Y-%m-%d") + ".[/SYSTEM_PROMPT]" }}
{%- endif %}
{%- for m in messages %}
    {%- if m["role"] == "user" %}{{- "[INST]" + m["content"] + "[/INST]" }}
    {%- elif m["role"] == "system" %}{{- "[SYSTEM_PROMPT]" + m["content"] + "[/SYSTEM_PROMPT]" }}
    {%- else %}{{- m["content"] + eos_token }}
    {%- endif %}
{%- endfor %}"""

GEMMA = """\
{{ bos_token }}\
{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}\
{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

CHATML = """\
{% for m in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN_3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

PHI_3 = """\
{% for m in messages %}\
{% if m['role'] == 'system' and m['content'] %}{{'<|system|>\\n' + m['content'] + '<|end|>\\n'}}\
{% elif m['role'] == 'user' %}{{'<|user|>\\n' + m['content'] + '<|end|>\\n'}}\
{% elif m['role'] == 'assistant' %}{{'<|assistant|>\\n' + m['content'] + '<|end|>\\n'}}{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

DEEPSEEK_R1 = """\
{% set ns = namespace(system='') %}\
{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.system = m['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system}}\
{%- for m in messages %}\
{%- if m['role'] == 'user' %}{{'<|User|>' + m['content']}}{%- endif %}\
{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}\
{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}\
{{'<|Assistant|>' + content + '<|end_of_sentence|>'}}{%- endif %}\
{%- endfor -%}\
{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}"""

# Content is a list of parts; the letters of a string have no type, so a string renders as nothing.
IDEFICS = """\
{% for m in messages %}\
{{m['role'].capitalize()}}{% if m['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
{% for part in m['content'] %}{% if part['type'] == 'text' %}{{part['text']}}{% elif part['type'] == 'image' %}{{ '<image>' }}\
{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

SMOLLM_3 = """\
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}{{- messages[0].content + "\\n" -}}{%- endif -%}
{{- "Reasoning Mode: " + mode + "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>user\\n" + message.content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {%- generation -%}
        {%- if mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if mode == "/think" -%}{{ "<|im_start|>assistant\\n" }}
    {%- else -%}{{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" }}{%- endif -%}
{%- endif -%}"""

# The answer is written to a channel; the prompt ends before the channel's name.
GPT_OSS = """\
{{- "<|start|>system<|message|>Current date: " + strftime_now("%Y-%m-%d") + "<|end|>" }}
{%- for m in messages %}
    {%- if m.role == "system" %}{{- "<|start|>developer<|message|># Instructions\\n\\n" + m.content + "<|end|>" }}
    {%- elif m.role == "user" %}{{- "<|start|>user<|message|>" + m.content + "<|end|>" }}
    {%- else %}{{- "<|start|>assistant<|channel|>final<|message|>" + m.content }}
        {%- if loop.last and not add_generation_prompt %}{{- "<|return|>" }}{%- else %}{{- "<|end|>" }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start|>assistant" }}{%- endif %}"""

IM = ("<|im_end|>", "<|im_start|>")

FAMILIES = {
    "Llama 2": Family(
        LLAMA_2, ("</s>", "<s>"), f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{QUESTION} [/INST] ", " </s>"
    ),
    "Llama 3": Family(
        LLAMA_3,
        ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
        f"{SYSTEM}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "Mistral Nemo": Family(
        MISTRAL_NEMO, ("</s>", "<s>", "[INST]", "[/INST]"), f"<s>[INST]{SYSTEM}\n\n{QUESTION}[/INST]", "</s>"
    ),
    "Mistral v3": Family(
        MISTRAL_3, ("</s>", "<s>", "[INST]", "[/INST]"), f"<s>[INST]{SYSTEM}\n\n{QUESTION} [/INST] ", "</s>"
    ),
    "Mistral v7": Family(
        MISTRAL_7,
        ("</s>", "<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        f"<s>[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]{QUESTION}[/INST]",
        "</s>",
    ),
    "Gemma": Family(
        GEMMA,
        ("<end_of_turn>", "<start_of_turn>", "<bos>"),
        f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        eos="<eos>",
        system=False,
    ),
    "Qwen 2.5": Family(
        CHATML,
        IM,
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "Qwen 3": Family(
        QWEN_3,
        IM,
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>",
    ),
    "Phi 3": Family(
        PHI_3,
        ("<|end|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"),
        f"<|system|>\n{SYSTEM}<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n",
        "<|end|>",
        eos="<|endoftext|>",
    ),
    "DeepSeek R1": Family(
        DEEPSEEK_R1,
        ("<|end_of_sentence|>", "<|User|>", "<|Assistant|>"),
        f"<bos>{SYSTEM}<|User|>{QUESTION}<|Assistant|>",
        "<|end_of_sentence|>",
    ),
    "Idefics 2": Family(
        IDEFICS,
        ("<end_of_utterance>",),
        f"System: {SYSTEM}<end_of_utterance>\nUser: {QUESTION}<end_of_utterance>\nAssistant: ",
        "<end_of_utterance>",
        eos="<eos>",
    ),
    "SmolLM 3": Family(
        SMOLLM_3,
        IM,
        f"<|im_start|>system\n{SYSTEM}\nReasoning Mode: /no_think<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n",
        "<|im_end|>",
    ),
    "gpt-oss": Family(
        GPT_OSS,
        ("<|return|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>"),
        f"<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>developer<|message|># Instructions\n\n{SYSTEM}<|end|>"
        f"<|start|>user<|message|>{QUESTION}<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of letters with the family's special tokens and template."""
    family = FAMILIES[name]
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.special, *tiny.SPECIAL]})
    tokenizer.eos_token = family.eos or family.special[0]
    starts = {"<s>", "<|begin_of_text|>"} & set(family.special)
    tokenizer.bos_token = starts.pop() if starts else "<bos>"
    tokenizer.chat_template = family.template
    return tokenizer


def messages(*, system: bool = True, answer: str = ANSWER) -> list[dict[str, str]]:
    """A question with its answer, and a system prompt unless it is unwanted."""
    turns = [("user", QUESTION), ("assistant", answer)]
    if system:
        turns.insert(0, ("system", SYSTEM))
    return [{"role": role, "content": content} for role, content in turns]
