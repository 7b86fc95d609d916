"""Templates in the shapes that model families have, written here: each renders as transformers renders it, or refuses as it does."""

# ruff: noqa: E501  (templates are as wide as they are)

from __future__ import annotations

import re
from typing import Any

import pytest

from fanlight.errors import TokenizerError
from fanlight.text.chat import ChatTemplate

Messages = list[dict[str, Any]]

CHATML = """{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA_3 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}<|eot_id|>
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length == 0 %}{{- raise_exception("no first user message to put tools into") }}{%- endif %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}{{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id | length != 9 %}{{- raise_exception("ids have 9 characters") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {%- set content = message.content.content if message.content.content is defined else message.content %}
        {{- '[TOOL_RESULTS] {"content": ' + content | string + "}[/TOOL_RESULTS]" }}
    {%- else %}{{- raise_exception("only user, system, assistant and tool roles") }}{%- endif %}
{%- endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- elif message['content'] is iterable -%}
    {%- for item in message['content'] -%}
        {%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
    {%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

PHI_3 = """{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}"""

QWEN_3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system_prompt}}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {%- set ns.is_tool = false -%}
        {%- for tool in message['tool_calls'] %}
            {%- if not ns.is_first %}
                {{- '<|Assistant|><|calls|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] | tojson + '\\n' + '```' + '<|call_end|>'}}
                {%- set ns.is_first = true -%}
            {%- else %}{{- '\\n' + tool['function']['name'] }}{%- endif %}
        {%- endfor %}{{- '<|end|>' }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {%- if ns.is_tool %}{{- '<|outputs_end|>' + message['content'] + '<|end|>' }}{%- set ns.is_tool = false -%}
        {%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{- '<|Assistant|>' + content + '<|end|>' }}{%- endif %}
    {%- endif %}
    {%- if message['role'] == 'tool' %}
        {%- set ns.is_tool = true -%}
        {%- if ns.is_output_first %}{{- '<|outputs|>' }}{%- set ns.is_output_first = false %}{%- endif %}{{- '\\n<|output|>' + message['content'] | string + '<|output_end|>' }}
    {%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{'<|outputs_end|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|>'}}{% endif %}"""

COMMAND = """{{ bos_token }}{% set tools = tools or [] %}
{%- macro json_type(spec) %}
{%- if spec.type == 'array' %}List[{{ json_type(spec['items']) }}]
{%- elif spec.type is sequence and spec.type is not string %}{{ spec.type | map('upper') | join(' or ') }}
{%- else %}{{ {'string': 'str', 'integer': 'int', 'object': 'Dict'}[spec.type] or spec.type }}{% endif %}
{%- endmacro -%}
{%- macro signature(tool) %}
def {{ tool.name }}({% for name, spec in (tool.parameters.properties or {}) | dictsort %}{{ name }}: {{ json_type(spec) }}{% if name not in tool.parameters.required %} = None{% endif %}{{ ', ' if not loop.last }}{% endfor %}):
    \\"\\"\\"{{ tool.description | default('no description', true) | wordwrap(20) | indent(4) }}\\"\\"\\"
{%- endmacro -%}
{% block system scoped -%}
<|SYSTEM|>{% filter trim %}  {{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | join('\\n') | title }}  {% endfilter %}
{%- endblock %}
{% for tool in tools | map(attribute='function') | sort(attribute='name') %}{{ signature(tool) }}
{% endfor %}
{%- for group in messages | rejectattr('role', 'in', ['system']) | batch(2) %}
{%- set outer = loop %}
{%- for m in group %}<|{{ m.role | upper }}|>{{ loop.cycle('a', 'b') }}{{ outer.index }}.{{ loop.revindex }} {{ (m.content or '') | string | truncate(30, true, '~', 0) }}
{% endfor %}{%- else %}nobody{% endfor -%}
{% for d in documents or [] recursive %}{{ d.title | e }}:{{ loop.depth }}{% if d.more %}({{ loop(d.more) }}){% endif %};{% endfor %}
{% set total %}{{ messages | map(attribute='content') | select('string') | map('length') | sum }}/{{ [messages | length, 2] | max }}{% endset %}
{%- with n = total.split('/') %}{{ n[0] | int // 2 }} {{ '%.2f' | format(n[1] | float / 3) }} {{ "%s|%5d" % (n[0], n[1] | int) }}{% endwith %}
{% if add_generation_prompt %}<|CHATBOT|>{% endif %}"""

TRAINING = """{% for m in messages %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    {% if loop.index > 4 %}{% break %}{% endif %}
    {%- if m.role == 'assistant' %}
    {% generation %}
    {{ m.content }}{{ eos_token }}
    {% endgeneration %}
    {% else %}
        {# a comment #}
  {{ m.content | trim }}  {#- and one that eats space -#}
    {% endif %}
{% endfor %}
{{ messages | tojson }}
{{ messages[0] | tojson(indent=2) }}
{{ messages[0] | tojson(separators=(',', ':'), sort_keys=true) }}
{{ messages[0] | tojson(ensure_ascii=true) }}
{{ {'b': 1, 'a': [none, true, 1.5]} | tojson(indent=1, sort_keys=true) }}
"""

TEMPLATES = {
    "chatml": CHATML,
    "llama 3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi 3": PHI_3,
    "qwen 3": QWEN_3,
    "zephyr": ZEPHYR,
    "deepseek": DEEPSEEK,
    "command": COMMAND,
    "training": TRAINING,
}

CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Bogotá", "days": 2}},
}
SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now> & for some days in a city that has to be named in full",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "x": {"type": ["a", "b"]},
            },
            "required": ["city"],
        },
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}},
}
CHATS: dict[str, Messages] = {
    "one": [{"role": "user", "content": "  Hello,\n world <&> é 😀 \n"}],
    "system": [{"role": "system", "content": " be brief "}, {"role": "user", "content": "hi"}],
    "turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb</s>"},
        {"role": "user", "content": "{{ c }}{% raw %}"},
        {"role": "assistant", "content": "\n<think>no</think>d "},
    ],
    "odd roles": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "skip", "content": "c"}],
    "tools": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "name": "weather"},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Rain."},
    ],
    "two calls": [{"role": "user", "content": "w"}, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": " see "}, {"type": "image"}, {"type": "text", "text": "it"}],
        }
    ],
    "long": [{"role": ("user", "assistant")[i % 2], "content": f"message {i} " * (i % 7)} for i in range(300)],
}
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompt": {"add_generation_prompt": True},
    "tools": {"tools": [SCHEMA, OTHER], "add_generation_prompt": True},
    "extras": {
        "enable_thinking": False,
        "date_string": "1 Jan",
        "tools_in_user_message": False,
        "documents": [{"title": "<a>", "text": "t", "more": [{"title": "b"}]}],
        "add_generation_prompt": True,
    },
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_family_renders_or_refuses_as_in_transformers(name: str, chat: str, extra: str, theirs: Any) -> None:
    options = {"add_generation_prompt": False, **EXTRAS[extra]}
    try:
        expected = theirs.apply_chat_template(CHATS[chat], chat_template=TEMPLATES[name], tokenize=False, **options)
    except Exception as error:
        expected = error
    template = ChatTemplate(TEMPLATES[name], bos_token="<|im_start|>", eos_token="<|im_end|>")
    if isinstance(expected, str):
        assert template.render(CHATS[chat], **options) == expected
    else:
        with pytest.raises(TokenizerError, match=re.escape(" ".join(str(expected).split())[:60])):
            template.render(CHATS[chat], **options)


def test_most_pairs_render() -> None:
    """The test above would be empty if nearly all templates refused nearly all chats."""
    rendered = 0
    for source in TEMPLATES.values():
        for messages in CHATS.values():
            try:
                rendered += len(ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages)) > 5
            except TokenizerError:
                continue
    assert rendered >= 50
