"""Every op and job of the contract in plain NumPy: the readable specification, and the oracle of all other implementations.

One function an op, with the contract's name and positional order: outputs, inputs, parameters; returns None. Outputs
are written in place and may be strided views of larger arrays, hence `y[...] = ...` throughout. Arithmetic is done in
the operands' own float type, float32 or float64 alike. The formulas are the contract's; where one would overflow or
cancel as it is written there, its stable form stands here, with the reason.

One module a topic, named as in `cpu/` and `gpu/`. The next op's oracle goes into the module of its topic, and its name into
the imports below: executors, tests and benchmarks look it up here (`batch_norm` is here the op, not its module). What several
topics need stands in `common.py`, `images.py` and `philox.py`.

The alphabet: B rows of a batch, I inputs, O outputs, C classes, N rows of the data set, M entries of the order, S steps
of an epoch, R x Q any matrix; of images H W C height, width and channels, OH and OW those of what a layer makes.

Numbers behave as in IEEE 754, silently: overflow gives inf, inf - inf gives NaN, and NaN stays NaN (`relu` of NaN is
NaN).
"""

from .activations import (
    dropout,
    dropout_backward,
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from .batch_norm import (
    batch_moments,
    batch_norm,
    batch_norm_dx,
    batch_norm_inference,
    batch_norm_sums,
    merge_moments,
    moving_moments,
)
from .blocks import block_linear, block_linear_dw_add, occupied_blocks, pack_blocks
from .convolution import (
    conv2d,
    conv2d_db,
    conv2d_db_add,
    conv2d_dw,
    conv2d_dw_add,
    conv2d_dx,
    conv2d_relu,
    crop,
    pad,
    transpose,
)
from .forest import bootstrap, forest_proba, grow_tree
from .losses import (
    binary_cross_entropy,
    binary_cross_entropy_by_class,
    binary_cross_entropy_sums,
    softmax,
    softmax_cross_entropy,
    softmax_twice_cross_entropy,
    weighted_sums,
)
from .matmul import (
    gemm_nn,
    gemm_nt,
    gemm_tn,
    gemm_tt,
    linear,
    linear_db,
    linear_db_add,
    linear_dw,
    linear_dw_add,
    linear_dw_sgd,
    linear_dx,
    linear_dx_add,
    linear_dx_add_relu,
    linear_dx_relu,
    linear_relu,
)
from .optimizers import adam, add, momentum, nesterov, sgd
from .philox import philox4x32
from .pooled_convolution import conv2d_grey_pooled, conv2d_pooled_dwt, conv2d_pooled_dwt_add, conv2d_pooled_dx
from .pooling import avg_pool, avg_pool_dx, max_pool, max_pool_dx
from .quads import quad_linear, quad_linear_dw, quad_linear_dw_sgd, quad_linear_relu, skipping_quads, sparse_quads
from .rows import advance, gather_rows, scatter_rows
from .sparse import (
    compress_rows,
    count_nonzeros,
    skipping_linear,
    skipping_linear_relu,
    sparse_linear,
    sparse_linear_dw_add,
    sparse_linear_relu,
)
from .warping import augment_images, deskew_images
from .winograd import (
    conv2d_winograd,
    conv2d_winograd_relu,
    winograd_filters,
    winograd_filters_kept,
    winograd_filters_turned,
)
