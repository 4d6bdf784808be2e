"""Vision prototypes in an unmodified checkout of upstream CLIP-ES."""

from vpl_plugin.adapters.clip_es.upstream.retrofit import Retrofit, UpstreamError, retrofit

__all__ = ["Retrofit", "UpstreamError", "retrofit"]
