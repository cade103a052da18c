"""DoRA (Liu et al. 2024, arXiv:2402.09353): a change of a weight, with the magnitudes of its rows learned apart.

y = m ⊙ (W x + b + s · B A x) / ‖W + B A‖, with the norm of each row. As in AdapterHub's `adapters`, the norm is without
s and the bias is scaled too: with alpha = r and no bias that is the formula of the paper. With `scale_bias=False` the
bias stays.

Letters: I inputs, O outputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .kept import Keeper, flows
from .targets import Target
from .weights import dense_weight, is_dense


class Magnitude(Keeper):
    """The magnitudes m of the rows of a weight. Shape of the parameter: `weight` (R, 1).

    Args:
        target: The matrix. m starts as the norms of its rows.
    """

    rows: Tensor | None

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.register_buffer("rows", target.rows, persistent=False)
        self._module = (target.module,)  # in a tuple it is no module of the adapter
        self._matrix = replace(target.matrix, path="")
        count = target.matrix.out_features if target.rows is None else len(target.rows)
        self.weight = nn.Parameter(torch.empty(count, 1))

    def start(self) -> None:
        """See `AdapterModule.start`."""
        self.weight = nn.Parameter(self._of_rows(_root(self._squares_of_base()))[:, None])

    @property
    def sources(self) -> list[Tensor]:
        """The tensors that norms and magnitudes are made of."""
        own, base = self._parameters["weight"], self._module[0]._parameters["weight"]
        assert own is not None and base is not None
        return [own, base]

    def scale(self, a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
        """m / ‖W + B A‖, and 1 for rows that are not adapted.

        Args:
            a: A. Shape: (n·r, I).
            b: B. Shape: (O, n·r).
            weight: W, if it is not that of the layer. Shape: (O, I).

        Returns:
            What the rows are to be multiplied by. Shape: (O,).
        """
        # ‖W + B A‖² = ‖W‖² + 2 W · B A + ‖B A‖², of which no term needs a matrix of the size of W.
        if weight is None:
            squares, products = self._kept_squares(), self._products_of_base(a)
        else:
            squares, products = _squares(weight), linear(a.to(weight.dtype), weight)
        twice = 2 * (products.t() * b).sum(dim=1) + ((b @ (a @ a.t())) * b).sum(dim=1)
        m = self.weight[:, 0]
        scale = m / self._of_rows(_root(squares + twice)).to(m.dtype)
        return scale if self.rows is None else m.new_ones(b.shape[0]).index_copy(0, self.rows, scale)

    def _kept_squares(self) -> Tensor:
        base = self.sources[1:]
        return self._squares_of_base() if flows(base) else self.kept.get(base, self._squares_of_base)

    def _squares_of_base(self) -> Tensor:
        return _squares(dense_weight(self._module[0], self._matrix))

    def _products_of_base(self, a: Tensor) -> Tensor:
        """A Wᵀ. Shape: (n·r, I) to (n·r, O)."""
        module = self._module[0]
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        if weight is not None and is_dense(weight):
            return linear(a.to(weight.dtype), weight.mT if self._matrix.is_transposed else weight)
        products: Tensor = module.forward(a)  # a quantised layer: only it knows its weight
        return products if bias is None else products - bias

    def _of_rows(self, norms: Tensor) -> Tensor:
        """Shape: (O,) to (R,)."""
        return norms if self.rows is None else norms[self.rows]


def _squares(weight: Tensor) -> Tensor:
    """The squared norms of the rows. Shape: (O, I) to (O,)."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32))
    return norms.square()


def _root(squares: Tensor) -> Tensor:
    """Norms, above zero also for rows of zeros. Shape: (O,), kept."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
