"""CLIP-CPAL: context prototype-aware learning on top of the CLIP-ES pipeline."""
