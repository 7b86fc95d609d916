"""A chat template of any text renders a chat within its limits, or is refused with a TokenizerError of one line."""

from __future__ import annotations

import copy
import sys
import time
from contextlib import nullcontext
from typing import Any

from harness import main

if "--replay" not in sys.argv and __name__ == "__main__":
    import atheris  # type: ignore[import-not-found,unused-ignore]

    instrumented = atheris.instrument_imports(include=["fanlight", "jinja2"])
else:
    instrumented = nullcontext()
with instrumented:
    from fanlight.errors import TokenizerError
    from fanlight.text import budget, chat, sandbox

LIMITS = {"MAX_STEPS": 50_000, "MAX_SECONDS": 0.5, "MIN_CHARS": 1 << 16, "MIN_BYTES": 8 << 20}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "a < b"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, None]}}}]},
    {"role": "tool", "content": "1.5"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "array"}}}}]
INTERNALS = ("<module ", "<frame ", "<code object ")  # (functions that templates may call print as functions)


def target(data: bytes) -> None:
    """Compile and render."""
    source = data.decode("utf-8", errors="replace")
    before = {name: getattr(budget, name) for name in LIMITS}
    for name, value in LIMITS.items():
        setattr(budget, name, value)
    started = time.process_time()
    given = copy.deepcopy((CHAT, TOOLS))
    try:
        template = chat.ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        compiled = time.process_time()
        text = template.render(given[0], tools=given[1])
    except TokenizerError as error:
        compiled = time.process_time()
        text = str(error)
        assert text.startswith("chat template"), text
        assert text.isprintable(), text
        assert len(text) < 600, len(text)
    else:
        assert len(text) <= (1 << 16) + sandbox.Budget(1000).max_chars
        assert time.process_time() - compiled < 4, "rendering took too long"
    finally:
        for name, value in before.items():
            setattr(budget, name, value)
    assert given == (CHAT, TOOLS), "the caller's messages were changed"
    assert compiled - started < 8, "compiling took too long"
    for word in INTERNALS:
        assert word not in text or word in source, f"{word} is within reach: {text[:200]}"


if __name__ == "__main__":
    main("chat_template", target)
