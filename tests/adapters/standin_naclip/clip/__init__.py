from clip.model import CLIP
