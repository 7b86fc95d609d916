"""Every exception that Fanlight raises on purpose. Knows nothing else.

A message names where, what was expected, what was found and what to do; the command line prints it as one line.
"""


class FanlightError(Exception):
    """Base of all errors that a caller can act on."""


class OptionError(FanlightError, ValueError):
    """An unknown option, or a value outside its range."""


class CheckpointError(FanlightError):
    """A model file that is missing a part, damaged, or of a kind that Fanlight does not read."""


class ModelNotFound(FanlightError, FileNotFoundError):
    """No model under this name; the message says how to get one."""

    def __str__(self) -> str:  # OSError would print "[Errno ...]" around it
        return str(self.args[0]) if self.args else ""


class DownloadError(FanlightError):
    """A model that could not be fetched: no network, no access, a faulty answer, no room; the message says what to do."""


class TokenizerError(FanlightError):
    """Tokenizer or chat-template data that cannot be used."""


class ContextOverflow(FanlightError, ValueError):
    """A prompt that does not fit the context window; the message holds both numbers."""


class QueueFull(FanlightError):
    """More requests wait than may; the message holds both numbers. The same request may be accepted a little later."""


class NumericError(FanlightError, ArithmeticError):
    """Logits from which nothing can be chosen: NaN, or no token left after the filters."""


class ConstraintError(FanlightError, ValueError):
    """A text that its grammar does not accept, or that no token can continue."""


class MissingExtra(FanlightError, ImportError):
    """An optional dependency that is not installed; the message holds the pip command."""


class KernelError(FanlightError, ValueError):
    """An op was called with shapes, types or indices it does not take."""


class TraceError(FanlightError):
    """A trace's file is damaged, foreign, of a newer version, or cannot be written."""
