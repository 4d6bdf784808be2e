"""What another library's error says, short enough for a message of our own."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(error: object) -> str:
    """The first line of a message; the error's type where it has none.

    Example:
        >>> one_line(ValueError("no such tag\\nTags are a, b")), one_line(EOFError())
        ('no such tag', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
