"""Lists and tables that people write by hand or by a spreadsheet, as text."""

from __future__ import annotations

from pathlib import Path

from vpl_plugin.errors import InputError

__all__ = ["read_text"]


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, without the mark that Windows editors put before it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another encoding; the message names the file and what it seems to be.
        OSError: it cannot be read.
    """
    held = file.read_bytes()
    try:
        text = held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte-order mark, or a zero byte a character, as ASCII has it in UTF-16.
        seems = "UTF-16" if _is_utf16(held) else "Latin-1 or another 8-bit encoding"
        raise InputError(
            f"{file} must be UTF-8 text: {error}. It seems to be {seems}: save it as UTF-8"
        ) from error
    if "\0" in text:
        seems = "It seems to be UTF-16" if _is_utf16(held) else "It seems to be no text"
        raise InputError(f"{file} must be UTF-8 text, and it has zero bytes. {seems}")
    return text


def _is_utf16(held: bytes) -> bool:
    return held[:2] in (b"\xff\xfe", b"\xfe\xff") or held[:200].count(0) * 3 > len(held[:200])
