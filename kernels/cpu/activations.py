"""Elementwise activations and their derivatives. B batch, O units; y may be x itself, dx may be dy.

One loop for all: `rows(f)` makes a kernel body that walks the rows vector by vector, the tail masked.
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .mathematics import expm1, normal_cdf, normal_density
from .mathematics import sigmoid as _sigmoid
from .mathematics import tanh as _tanh
from .registry import kernel
from .simd import fma, inline, load, load_n, splat, store, store_n, where

_F = np.float32
_SLOPE = _F(0.01)


def _unary(f):
    @inline
    def body(y, x, B, O, ld_y, ld_x):
        for r in range(B):
            for j in range(0, O, LANES):
                n = O - j
                if n >= LANES:
                    store(y, r * ld_y + j, f(load(x, r * ld_x + j)))
                else:
                    store_n(y, r * ld_y + j, f(load_n(x, r * ld_x + j, n)), n)

    return body


def _binary(f):
    @inline
    def body(z, x, y, B, O, ld_z, ld_x, ld_y):
        for r in range(B):
            for j in range(0, O, LANES):
                n = O - j
                if n >= LANES:
                    store(z, r * ld_z + j, f(load(x, r * ld_x + j), load(y, r * ld_y + j)))
                else:
                    store_n(z, r * ld_z + j, f(load_n(x, r * ld_x + j, n), load_n(y, r * ld_y + j, n)), n)

    return body


@inline
def _relu_f(x):
    return where(x < splat(_F(0.0)), splat(_F(0.0)), x)


@inline
def _leaky_f(x):
    return where(x > splat(_F(0.0)), x, x * splat(_SLOPE))


@inline
def _elu_f(x):
    return where(x > splat(_F(0.0)), x, expm1(x))


@inline
def _gelu_f(x):
    return x * normal_cdf(x)


@inline
def _relu_d(dy, y):
    return where(y > splat(_F(0.0)), dy, splat(_F(0.0)))


@inline
def _leaky_d(dy, y):
    return where(y > splat(_F(0.0)), dy, dy * splat(_SLOPE))


@inline
def _elu_d(dy, y):
    return where(y > splat(_F(0.0)), dy, dy * (y + splat(_F(1.0))))


@inline
def _sigmoid_d(dy, y):
    return dy * y * (splat(_F(1.0)) - y)


@inline
def _tanh_d(dy, y):
    return dy * (splat(_F(1.0)) - y * y)


@inline
def _gelu_d(dy, x):
    return dy * fma(x, normal_density(x), normal_cdf(x))


@inline
def _product(x, y):
    return x * y


_relu, _leaky, _elu, _sig, _tan, _gelu = (_unary(f) for f in (_relu_f, _leaky_f, _elu_f, _sigmoid, _tanh, _gelu_f))
_drelu, _dleaky, _delu, _dsig, _dtan, _dgelu, _multiply = (
    _binary(f) for f in (_relu_d, _leaky_d, _elu_d, _sigmoid_d, _tanh_d, _gelu_d, _product)
)


@kernel
def relu(y, x, B, O, ld_y, ld_x):
    _relu(y, x, B, O, ld_y, ld_x)


@kernel
def leaky_relu(y, x, B, O, ld_y, ld_x):
    _leaky(y, x, B, O, ld_y, ld_x)


@kernel
def elu(y, x, B, O, ld_y, ld_x):
    _elu(y, x, B, O, ld_y, ld_x)


@kernel
def sigmoid(y, x, B, O, ld_y, ld_x):
    _sig(y, x, B, O, ld_y, ld_x)


@kernel
def tanh(y, x, B, O, ld_y, ld_x):
    _tan(y, x, B, O, ld_y, ld_x)


@kernel
def gelu(y, x, B, O, ld_y, ld_x):
    _gelu(y, x, B, O, ld_y, ld_x)


@kernel
def relu_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y):
    _drelu(dx, dy, y, B, O, ld_dx, ld_dy, ld_y)


@kernel
def leaky_relu_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y):
    _dleaky(dx, dy, y, B, O, ld_dx, ld_dy, ld_y)


@kernel
def elu_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y):
    _delu(dx, dy, y, B, O, ld_dx, ld_dy, ld_y)


@kernel
def sigmoid_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y):
    _dsig(dx, dy, y, B, O, ld_dx, ld_dy, ld_y)


@kernel
def tanh_backward(dx, dy, y, B, O, ld_dx, ld_dy, ld_y):
    _dtan(dx, dy, y, B, O, ld_dx, ld_dy, ld_y)


@kernel
def gelu_backward(dx, dy, x, B, O, ld_dx, ld_dy, ld_x):
    _dgelu(dx, dy, x, B, O, ld_dx, ld_dy, ld_x)


@kernel
def dropout_backward(dx, dy, mask, B, O, ld_dx, ld_dy, ld_mask):
    _multiply(dx, dy, mask, B, O, ld_dx, ld_dy, ld_mask)
