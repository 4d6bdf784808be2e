"""Vision prototypes in the code of other methods, from an unmodified checkout.

A method is retrofitted by one file in ``adapters/recipes``, or in a package of the user's own.
"""

from vpl_plugin.adapters.retrofit.job import UpstreamError
from vpl_plugin.adapters.retrofit.places import Attributes, Returned, Scale, Variable
from vpl_plugin.adapters.retrofit.recipe import Call, Recipe, SeenPhoto
from vpl_plugin.adapters.retrofit.retrofit import Retrofit, retrofit

__all__ = [
    "Attributes",
    "Call",
    "Recipe",
    "Retrofit",
    "Returned",
    "Scale",
    "SeenPhoto",
    "UpstreamError",
    "Variable",
    "retrofit",
]
