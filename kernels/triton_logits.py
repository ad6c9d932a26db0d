"""Device functions that the Triton kernels share: what a head does to a product, and a softmax's parts."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tanh_float(x):
    """tanh from exp2 (the interpreter has no libdevice): an odd polynomial near 0, where the quotient would cancel."""
    a = tl.abs(x)
    e = tl.exp2(a * -2.8853900817779268)  # exp(-2a)
    far = (1.0 - e) / (1.0 + e)
    s = a * a
    q = (((-0.005704985412 * s + 0.02063908586) * s - 0.05373971467) * s + 0.1333144219) * s - 0.3333328194
    magnitude = tl.where(a < 0.625, a + a * s * q, far)
    return tl.where(x < 0, -magnitude, magnitude)


@triton.jit
def transform_logits(z, bias, scale, softcap, has_softcap: tl.constexpr):
    z = (z + bias) * scale
    if has_softcap:
        z = softcap * tanh_float(z / softcap)
    return z


@triton.jit
def finite_offset(largest):
    """The maximum, or 0 in place of -inf, so that -inf minus it stays -inf and is no NaN."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def add_sinks(largest, total, sinks):
    """A running softmax's sum with one more logit of each row, which has no value; infinite where it takes all."""
    return total + tl.exp2((sinks - finite_offset(largest)) * LOG2_E)
