"""Resizing by products is F.interpolate's, values and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vpl_plugin.segmentation.resizing import resize_maps

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, SIDES, SIDES)
def test_it_is_bilinear_interpolation(h: int, w: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(41 * h + w)
    maps = torch.randn(2, 3, h, w, generator=generator, dtype=torch.float64, requires_grad=True)
    found = resize_maps(maps, (height, width))
    expected = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(one, maps, upstream)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients)
