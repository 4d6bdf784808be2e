from clip.clip import encode_text, generate_clip_fts, load

__all__ = ["encode_text", "generate_clip_fts", "load"]
