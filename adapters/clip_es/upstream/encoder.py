"""The encoder that upstream CLIP-ES's code runs: one that it loads itself, or the embedded one."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["check_encoder", "load_encoder"]

_INTERFACE = ("encode_image", "encode_text", "forward_last_layer", "logit_scale", "visual")
_VISUAL = ("ln_post", "proj", "transformer")


def load_encoder(name: str, clip: Any, device: str) -> nn.Module:
    """A model of upstream's own class.

    Args:
        name: what upstream's ``clip.load`` takes (a file, or a name it downloads), or "mini", the
            embedded model.
        clip: upstream's ``clip`` package.
        device: "cuda" or "cpu".
    """
    if name == "mini":
        return _mini(clip.model.CLIP).to(device)
    return clip.load(name, device=device)[0]


def check_encoder(model: Any) -> None:
    """The parts of upstream's vision transformer that the retrofit reads.

    Raises:
        TypeError: a part is missing, as in upstream's ResNets.
    """
    missing = [name for name in _INTERFACE if not hasattr(model, name)]
    if not missing:
        missing = [f"visual.{name}" for name in _VISUAL if not hasattr(model.visual, name)]
    if missing:
        raise TypeError(
            f"model must be a vision transformer of upstream's CLIP class; a"
            f" {type(model).__name__} without {', '.join(missing)} was given"
        )


def _mini(clip_class: Any) -> nn.Module:
    """The embedded weights in upstream's class, whose patch embedding gives way to the stem."""
    from vpl_plugin.clip.mini import load_mini

    mini = load_mini()
    visual, width = mini.visual, mini.text_projection.shape[0]
    layers = len(visual.transformer.resblocks)
    grid = round((len(visual.positional_embedding) - 1) ** 0.5)
    model = clip_class(
        mini.text_projection.shape[1],
        grid * visual.patch_size,
        layers,
        visual.proj.shape[0],
        visual.patch_size,
        mini.context_length,
        mini.vocab_size,
        width,
        width // 64,
        len(mini.transformer.resblocks),
    )
    model.visual.conv1 = visual.conv1
    model.load_state_dict(mini.state_dict())
    return model.eval()
