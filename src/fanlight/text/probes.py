"""Texts on which different rules cut differently: what tells one tokenizer from another. Data only."""

PROBES = (
    "The quick brown fox, don't you think? I'LL WE'VE it's 'tis they'd; O'Reilly's",
    "1 12 123 1234 12345678901 3.14159 1,000,000 0x1F 2024-01-31 a1b22c333 \u00bd\u00b2\u2167\u0663\u0664\u0665",
    "  two   three    four\t\ttabs \n\n\n lines\r\n\r\n end   ",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # a comment\n\n\nclass A(B):\n\tpass\n",
    "HTTPServer camelCase snake_case PascalCASEWord a\u0301e\u0301 \u01c5 stra\u00dfe \u0130stanbul",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u4e2d\u6587\u6587\u672c\u3002",
    "\ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u043f\u0440\u0438\u0432\u0435\u0442",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1eb\U0001f1f7",
    "$100 + == ^x^ ~|~ `q` #!$%&* ......!!!??? --- \u2014\u2026\u201c\u201d https://x.y/z?q=1&r=%20 //comment",
    "\u00a0no\u3000break\u2003em \x00\x01\x1b[31m \u200b\ufeff\u00ad",
    " leading, trailing ",
    "(parenthesis) [bracket] {brace} <tag> </tag> \\n _under_ @at",
)
