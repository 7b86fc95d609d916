"""The harness's command with the model `fanlight` in it: `python -m fanlight.evaluating` takes what `lm_eval` takes."""

from __future__ import annotations

import sys
from importlib import import_module

from fanlight.errors import FanlightError


def main() -> int:
    """Run it. Errors of Fanlight are one line on stderr and the exit code 2."""
    try:
        import_module("fanlight.evaluating.harness")  # enters the name, or says that lm_eval is not installed
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except FanlightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
