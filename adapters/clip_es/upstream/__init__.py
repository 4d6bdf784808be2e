"""Vision prototypes in an unmodified checkout of upstream CLIP-ES."""

from vpl_plugin.adapters.clip_es.upstream.retrofit import Retrofit, retrofit
from vpl_plugin.adapters.retrofit.job import UpstreamError

__all__ = ["Retrofit", "UpstreamError", "retrofit"]
