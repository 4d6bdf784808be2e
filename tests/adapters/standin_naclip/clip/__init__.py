from clip.model import CLIP

__all__ = ["CLIP"]
