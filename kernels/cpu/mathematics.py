"""Vector exp, log, tanh, erf and relatives, accurate to a few ulp over the whole range, built from arithmetic alone.

Each docstring states the largest error in ulp of the exact result (of the smallest normal number where the result is denormal); the tests hold
the functions to just these bounds, over all of float32, with and without fused multiply-add.

Range reduction and minimax polynomials after Cephes (Moshier 1989, single precision: expf, logf, tanhf, ndtrf).
"""

from __future__ import annotations

import numpy as np

from .isa import MACHINE
from .simd import absolute, exponent, fma, inline, mantissa, scale_by_power, splat, where

_F = np.float32
_LOG2E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_MAGIC = _F(12582912.0)  # adding 1.5 * 2^23 rounds to an integer
_SQRT_HALF = _F(0.707106781186547524)


@inline
def exp(x):
    """exp(x); overflows to inf above 88.72, underflows gradually below -87.33. Error at most 1.02 ulp."""
    # Beyond these bounds the result is inf or 0 anyhow; NaN passes.
    clipped = where(x > splat(_F(89.0)), splat(_F(89.0)), x)
    clipped = where(clipped < splat(_F(-104.0)), splat(_F(-104.0)), clipped)
    n = fma(clipped, splat(_LOG2E), splat(_MAGIC))
    whole = n - splat(_MAGIC)
    r = fma(whole, splat(-_LN2_HIGH), clipped)
    r = fma(whole, splat(-_LN2_LOW), r)
    p = splat(_F(1.9875691500e-4))
    p = fma(p, r, splat(_F(1.3981999507e-3)))
    p = fma(p, r, splat(_F(8.3334519073e-3)))
    p = fma(p, r, splat(_F(4.1665795894e-2)))
    p = fma(p, r, splat(_F(1.6666665459e-1)))
    p = fma(p, r, splat(_F(5.0000001201e-1)))
    p = fma(r * r, p, r) + splat(_F(1.0))
    return scale_by_power(p, n)


@inline
def expm1(x):
    """exp(x) - 1 for x <= 0, without cancellation near 0. Error at most 1.5 ulp."""
    small = splat(_F(1.9841270e-4))  # Taylor's series: |x| <= 0.35 leaves an error below half an ulp
    small = fma(small, x, splat(_F(1.3888889e-3)))
    small = fma(small, x, splat(_F(8.3333333e-3)))
    small = fma(small, x, splat(_F(4.1666667e-2)))
    small = fma(small, x, splat(_F(1.6666667e-1)))
    small = fma(small, x, splat(_F(0.5)))
    small = fma(x * x, small, x)
    return where(x > splat(_F(-0.35)), small, exp(x) - splat(_F(1.0)))


@inline
def log(x):
    """Natural logarithm of a positive normal finite x. Error at most 1 ulp."""
    e, m = exponent(x), mantissa(x)
    low = m < splat(_SQRT_HALF)
    e = where(low, e - splat(_F(1.0)), e)
    m = where(low, m + m, m) - splat(_F(1.0))
    p = splat(_F(7.0376836292e-2))
    p = fma(p, m, splat(_F(-1.1514610310e-1)))
    p = fma(p, m, splat(_F(1.1676998740e-1)))
    p = fma(p, m, splat(_F(-1.2420140846e-1)))
    p = fma(p, m, splat(_F(1.4249322787e-1)))
    p = fma(p, m, splat(_F(-1.6668057665e-1)))
    p = fma(p, m, splat(_F(2.0000714765e-1)))
    p = fma(p, m, splat(_F(-2.4999993993e-1)))
    p = fma(p, m, splat(_F(3.3333331174e-1)))
    square = m * m
    y = p * m * square
    y = fma(e, splat(_LN2_LOW), y)
    y = fma(square, splat(_F(-0.5)), y)
    return fma(e, splat(_LN2_HIGH), m + y)


@inline
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: the rounding of 1 + x is put back (Kahan). Error at most 1.5 ulp."""
    u = x + splat(_F(1.0))
    return log(u) + (x - (u - splat(_F(1.0)))) / u


@inline
def sigmoid_of(x, e):
    """1 / (1 + exp(-x)), where e = exp(-|x|) is known already. Error at most 3 ulp."""
    r = splat(_F(1.0)) / (e + splat(_F(1.0)))
    return where(x < splat(_F(0.0)), e * r, r)


@inline
def sigmoid(x):
    """1 / (1 + exp(-x)), exp taken of a negative number only. Error at most 3 ulp."""
    return sigmoid_of(x, exp(splat(_F(0.0)) - absolute(x)))


@inline
def tanh(x):
    """tanh(x): a polynomial near 0, where the formula by exp would cancel. Error at most 1.5 ulp."""
    square = x * x
    p = splat(_F(-5.70498872745e-3))
    p = fma(p, square, splat(_F(2.06390887954e-2)))
    p = fma(p, square, splat(_F(-5.37397155531e-2)))
    p = fma(p, square, splat(_F(1.33314422036e-1)))
    p = fma(p, square, splat(_F(-3.33332819422e-1)))
    small = fma(p * square, x, x)
    magnitude = absolute(x)
    large = splat(_F(1.0)) - splat(_F(2.0)) / (exp(magnitude + magnitude) + splat(_F(1.0)))
    large = where(x < splat(_F(0.0)), splat(_F(0.0)) - large, large)
    return where(magnitude < splat(_F(0.625)), small, large)


@inline
def _erf_near(x):
    square = x * x
    p = splat(_F(7.853861353153693e-5))
    p = fma(p, square, splat(_F(-8.010193625184903e-4)))
    p = fma(p, square, splat(_F(5.188327685732524e-3)))
    p = fma(p, square, splat(_F(-2.685381193529856e-2)))
    p = fma(p, square, splat(_F(1.128358514861418e-1)))
    p = fma(p, square, splat(_F(-3.761262582423300e-1)))
    p = fma(p, square, splat(_F(1.128379165726710)))
    return x * p


if MACHINE.has_fma:

    @inline
    def _rounding_of_square(x, square):
        """What x * x has lost by being rounded to `square`, exactly."""
        return fma(x, x, splat(_F(0.0)) - square)

else:

    @inline
    def _rounding_of_square(x, square):
        """What x * x has lost by being rounded to `square`: by halves of 12 bits, whose products are exact (Dekker 1971)."""
        shifted = x * splat(_F(4097.0))
        high = shifted - (shifted - x)
        low = x - high
        return (high * high - square) + splat(_F(2.0)) * high * low + low * low


_ALL_IS_ZERO = _F(20.0)  # exp(-20^2 / 2) underflows


@inline
def _bell(x):
    """exp(-x^2 / 2). The exponent's rounding, which exp would amplify up to 100 times, is put back."""
    magnitude = absolute(x)
    x = where(magnitude > splat(_ALL_IS_ZERO), splat(_ALL_IS_ZERO), magnitude)
    square = x * x
    e = exp(splat(_F(-0.5)) * square)
    return fma(e, splat(_F(-0.5)) * _rounding_of_square(x, square), e)


@inline
def _erfc_far_ratio(x):
    """erfc(x) / exp(-x^2) for x >= 1: 1 / x times a polynomial in 1 / x^2."""
    q = splat(_F(1.0)) / x
    y = q * q
    p = splat(_F(2.326819970068386e-2))
    p = fma(p, y, splat(_F(-1.387039388740657e-1)))
    p = fma(p, y, splat(_F(3.687424674597105e-1)))
    p = fma(p, y, splat(_F(-5.824733027278666e-1)))
    p = fma(p, y, splat(_F(6.210004621745983e-1)))
    p = fma(p, y, splat(_F(-4.944515323274145e-1)))
    p = fma(p, y, splat(_F(3.404879937665872e-1)))
    p = fma(p, y, splat(_F(-2.741127028184656e-1)))
    p = fma(p, y, splat(_F(5.638259427386472e-1)))
    r = splat(_F(-1.047766399936249e1))
    r = fma(r, y, splat(_F(1.297719955372516e1)))
    r = fma(r, y, splat(_F(-7.495518717768503)))
    r = fma(r, y, splat(_F(2.921019019210786)))
    r = fma(r, y, splat(_F(-1.015265279202700)))
    r = fma(r, y, splat(_F(4.218463358204948e-1)))
    r = fma(r, y, splat(_F(-2.820767439740514e-1)))
    r = fma(r, y, splat(_F(5.641895067754075e-1)))
    return q * where(x < splat(_F(2.0)), p, r)


@inline
def normal_cdf(x):
    """Phi(x) = erfc(-x / sqrt 2) / 2: the left tail keeps its relative precision. Error at most 11 ulp."""
    z = x * splat(_SQRT_HALF)
    magnitude = absolute(z)
    far = splat(_F(0.5)) * _bell(x) * _erfc_far_ratio(where(magnitude < splat(_F(1.0)), splat(_F(1.0)), magnitude))
    far = where(x < splat(_F(0.0)), far, splat(_F(1.0)) - far)
    near = fma(splat(_F(0.5)), _erf_near(z), splat(_F(0.5)))
    return where(magnitude < splat(_F(1.0)), near, far)


@inline
def normal_density(x):
    """phi(x) = exp(-x^2 / 2) / sqrt(2 pi). Error at most 3 ulp."""
    return _bell(x) * splat(_F(0.398942280401432678))
