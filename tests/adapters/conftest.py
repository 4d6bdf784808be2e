"""Keeps pytest out of the stand-in checkout, whose modules shadow installed packages."""

from __future__ import annotations

collect_ignore = ["standin_clip_es"]
