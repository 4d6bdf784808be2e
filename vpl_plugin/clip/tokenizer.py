"""CLIP's byte-pair encoding, from open_clip, imported when the first text is encoded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vpl_plugin.errors import InputError

__all__ = ["ClipTokenizer"]

CLIP_VOCABULARY = 49408
CLIP_CONTEXT = 77


class ClipTokenizer:
    """Texts to token ids; longer texts are cut so that the end-of-text token stays last.

    Args:
        context_length: length of a row of ids.

    Example:
        >>> tokens = ClipTokenizer()(["a photo of a cat."])
        >>> tokens.shape, tokens[0, :8].tolist()
        (torch.Size([1, 77]), [49406, 320, 1125, 539, 320, 2368, 269, 49407])
    """

    def __init__(self, context_length: int = CLIP_CONTEXT) -> None:
        self.context_length = context_length

    def __call__(self, texts: list[str]) -> Tensor:
        """(T, context_length) int64."""
        from open_clip import tokenize

        return tokenize(texts, context_length=self.context_length)

    @staticmethod
    def of(model: nn.Module) -> ClipTokenizer:
        """The tokenizer of a model that uses CLIP's vocabulary.

        Raises:
            InputError: the model uses another vocabulary.
        """
        text: Any = getattr(model, "text", model)
        vocabulary = getattr(text, "vocab_size", None)
        if vocabulary != CLIP_VOCABULARY:
            raise InputError(
                f"tokenizer is needed: the model's vocabulary has {vocabulary} entries and CLIP's "
                f"{CLIP_VOCABULARY}. Pass tokenizer=, for open_clip what "
                "open_clip.get_tokenizer(name) returns."
            )
        return ClipTokenizer(getattr(text, "context_length", CLIP_CONTEXT))
