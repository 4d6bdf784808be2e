"""Doctests that need the dense CRF are left out where it is not installed."""

import importlib.util

collect_ignore = []
if importlib.util.find_spec("pydensecrf") is None:
    collect_ignore += [
        "vpl_plugin/localization/crf.py",
        "vpl_plugin/localization/pseudo_masks.py",
    ]
