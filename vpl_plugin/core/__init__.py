"""The core: tensors only. No file, no CLIP, no printing; torch and numpy suffice."""
