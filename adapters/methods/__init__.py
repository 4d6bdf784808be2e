"""The methods that have an adapter, one file each; ``ADAPTERS`` finds them by name."""

from __future__ import annotations

from vpl_plugin.adapters.pipeline.run import Adapter
from vpl_plugin.registry import Registry

__all__ = ["ADAPTERS"]

# Listing the names imports none of the files.
ADAPTERS: Registry[type[Adapter]] = Registry(
    "adapter", package="vpl_plugin.adapters.methods", group="vpl_plugin.adapters"
)
