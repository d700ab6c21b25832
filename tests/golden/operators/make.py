"""Operators written in Qlib's way, each on the golden market: ``python make.py MARKET OUT.parquet``.

With pyqlib 0.9.7 it makes the reference values; run by ``python -m rollforge.compat.qlib`` it computes ours.
"""

import sys

import numpy as np
import qlib
from qlib.data import D
from qlib.data.base import ExpressionOps
from qlib.data.ops import ElemOperator, Mean, NpElemOperator, NpPairOperator, PairOperator, PairRolling, Ref, Rolling


class Diff(ElemOperator):
    """A class with its own window."""

    def _load_internal(self, instrument, start_index, end_index, freq):
        return self.feature.load(instrument, start_index, end_index, freq).diff()

    def get_extended_window_size(self):
        left, right = self.feature.get_extended_window_size()
        return left + 1, right


class Distance(PairOperator):
    """Two expressions."""

    def _load_internal(self, instrument, start_index, end_index, freq):
        left = self.feature_left.load(instrument, start_index, end_index, freq)
        right = self.feature_right.load(instrument, start_index, end_index, freq)
        return np.abs(left - right)


class Above(PairOperator):
    """An expression and a number, to a condition."""

    def _load_internal(self, instrument, start_index, end_index, *args):
        return self.feature_left.load(instrument, start_index, end_index, *args) > self.feature_right


class Hyp(NpPairOperator):
    """A function of numpy's, on pairs."""

    def __init__(self, feature_left, feature_right):
        super().__init__(feature_left, feature_right, "hypot")


class Sqrt(NpElemOperator):
    """A function of numpy's."""

    def __init__(self, feature):
        super().__init__(feature, "sqrt")


class Sem(Rolling):
    """A method of pandas' windows."""

    def __init__(self, feature, N):  # noqa: N803
        super().__init__(feature, N, "sem")


class PCov(PairRolling):
    """A method of pandas' windows over pairs."""

    def __init__(self, feature_left, feature_right, N):  # noqa: N803
        super().__init__(feature_left, feature_right, N, "cov")


class Ahead(ExpressionOps):
    """Numbers, a text with a default, and days to come."""

    def __init__(self, feature, n, how="sub"):
        self.feature, self.n, self.how = feature, n, how

    def __str__(self):
        return f"Ahead({self.feature},{self.n},'{self.how}')"

    def _load_internal(self, instrument, start_index, end_index, *args):
        series = self.feature.load(instrument, start_index, end_index, *args)
        return getattr(series.shift(-self.n), self.how)(series)

    def get_longest_back_rolling(self):
        return self.feature.get_longest_back_rolling()

    def get_extended_window_size(self):
        left, right = self.feature.get_extended_window_size()
        return left, right + self.n


class Momentum(ElemOperator):
    """Made of other operators while it computes."""

    def __init__(self, feature, n):
        super().__init__(feature)
        self.n = n

    def __str__(self):
        return f"Momentum({self.feature},{self.n})"

    def _load_internal(self, instrument, start_index, end_index, *args):
        return (self.feature / Ref(self.feature, self.n) - 1).load(instrument, start_index, end_index, *args)

    def get_extended_window_size(self):
        return Ref(self.feature, self.n).get_extended_window_size()


class Week(Mean):
    """One of Qlib's operators with an argument fixed."""

    def __init__(self, feature):
        super().__init__(feature, 7)

    def __str__(self):
        return f"Week({self.feature})"


OPERATORS = [Diff, Distance, Above, Hyp, Sqrt, Sem, PCov, Ahead, Momentum, Week]
FIELDS = [
    "Diff($close)", "Distance($close, Ref($close, 1))", "Hyp($close,$open)", "Hyp($close,3)", "Sqrt($close)",
    "Sem($close,10)", "Sem($close,0)", "PCov($close,$volume,8)", "Ahead($close,2)", "Ahead($close,2,'div')",
    "Ahead(Mean($close,3),1,how='mul')", "Momentum($close,5)", "Mean(Momentum($close,5),4)", "Week($close)",
    "If(Above($close,2.2),$open,$close)", "Std(Diff(Diff($close)),6)", "Diff(Mean(Diff($close),3))/$close",
    "Mean(Above($close,2.2),5)",
]  # fmt: skip

if __name__ == "__main__":
    qlib.init(provider_uri=sys.argv[1], region="us", kernels=1, custom_ops=OPERATORS)
    D.features(["X003", "X011"], FIELDS).to_parquet(sys.argv[2])
