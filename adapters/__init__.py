"""Adapters: existing CLIP WSSS pipelines with learned vision prototypes in their CAM step."""
