"""The methods that can be retrofitted in a checkout of theirs, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpl_plugin.registry import Registry

if TYPE_CHECKING:
    from vpl_plugin.adapters.retrofit.recipe import Recipe

__all__ = ["RECIPES"]

# Listing the names imports none of the files.
RECIPES: Registry[type[Recipe]] = Registry(
    "recipe", package="vpl_plugin.adapters.recipes", group="vpl_plugin.recipes"
)
