"""Keeps pytest out of the stand-in checkouts, whose modules shadow installed packages."""

from __future__ import annotations

collect_ignore = ["standin_clip_es", "standin_excel", "standin_naclip", "standin_weclip"]
