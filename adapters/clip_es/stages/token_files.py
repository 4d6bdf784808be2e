"""The folder of kept tokens: a photo is encoded once, by the first stage that needs it."""

from __future__ import annotations

from typing import NamedTuple

from vpl_plugin.adapters.clip_es.kept_tokens import KeptTokens
from vpl_plugin.adapters.clip_es.stage_files import read_arrays, write_arrays
from vpl_plugin.adapters.photos.photo_set import SetPhoto
from vpl_plugin.errors import InputError
from vpl_plugin.results import Results, photo_digest

__all__ = ["StoredTokens", "TokenFiles"]


class StoredTokens(NamedTuple):
    """A photo's file.

    Attributes:
        kept: its tokens.
        size: (height, width) of the photo in pixels.
    """

    kept: KeptTokens
    size: tuple[int, int]


class TokenFiles:
    """An .npz per photo.

    It does not depend on the photo's labels, and stays until the user removes it: other prototypes,
    and the stages that CLIP-CPAL adds, read it as well.

    Args:
        results: the folder.
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    def has(self, item: SetPhoto) -> bool:
        """Whether a photo's tokens are there and of this very photo."""
        return self._results.is_made(item.name, _inputs(item))

    def read(self, item: SetPhoto) -> StoredTokens | None:
        """A photo's tokens; None where the file is broken."""
        names = (*KeptTokens._fields, "size")
        try:
            arrays = read_arrays(self._results.file(item.name), names)
        except (InputError, FileNotFoundError):
            return None
        tokens, roots, largest = (arrays[name] for name in names[:3])
        height, width = arrays["grid"].tolist()
        kept = KeptTokens(tokens, roots, largest, int(arrays["blocks"]), (height, width))
        height, width = arrays["size"].tolist()
        return StoredTokens(kept, (height, width))

    def write(self, item: SetPhoto, stored: StoredTokens) -> None:
        """Writes a photo's tokens, whole or not at all."""
        arrays = {**stored.kept._asdict(), "size": stored.size}
        write_arrays(self._results.new_file(item.name), arrays, _inputs(item))


def _inputs(item: SetPhoto) -> str:
    return photo_digest(item.photo, None)
