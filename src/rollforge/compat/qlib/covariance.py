"""``qlib.model.riskmodel``: sample covariances of returns, and covariances by latent factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ConfigError, DataError
from rollforge.models.base import BaseModel

__all__ = ["RiskModel", "StructuredCovEstimator"]

Floats = NDArray[np.float64]


class RiskModel(BaseModel):
    """The sample covariance: the sum of products of deviations, divided by their number n.

    Parameters
    ----------
    nan_option : {"ignore", "mask", "fill"}
        Treatment of missing returns: propagate NaN, ignore them pairwise, or replace them by 0.
    assume_centered : bool
        If True, assume means of 0.
    scale_return : bool
        If True, convert returns to percent.

    Raises
    ------
    ConfigError
        For another `nan_option`.
    """

    MASK_NAN, FILL_NAN, IGNORE_NAN = "mask", "fill", "ignore"

    def __init__(self, nan_option: str = "ignore", assume_centered: bool = False, scale_return: bool = True) -> None:
        if nan_option not in (self.MASK_NAN, self.FILL_NAN, self.IGNORE_NAN):
            raise ConfigError(f"nan_option must be ignore, mask or fill, found {nan_option!r}.", path="nan_option")
        self.nan_option, self.assume_centered, self.scale_return = nan_option, assume_centered, scale_return

    def predict(
        self,
        X: object,  # noqa: N803 - Qlib's name
        return_corr: bool = False,
        is_price: bool = True,
        return_decomposed_components: bool = False,
    ) -> Any:
        """Return the covariance of the columns of `X`.

        Parameters
        ----------
        X : DataFrame, Series or array
            Days by instruments; or, indexed by instrument and datetime, a series (of a frame, the first column).
        return_corr : bool
            If True, return correlations.
        is_price : bool
            Whether `X` contains prices, from which returns are computed; if False, it contains returns.
        return_decomposed_components : bool
            If True, return the components of the covariance, if the model has them.

        Returns
        -------
        DataFrame or array
            Labelled if `X` is.

        Raises
        ------
        DataError
            If there are fewer than two returns.
        ConfigError
            If components are requested together with correlations, or from a model without components.
        """
        if return_decomposed_components and (return_corr or type(self)._parts is RiskModel._parts):
            what = "together with correlations" if return_corr else f"of {type(self).__name__}, which has none"
            raise ConfigError(
                f"The parts of a covariance cannot be returned {what}.", path="return_decomposed_components"
            )
        table = X
        if isinstance(table, (pd.Series, pd.DataFrame)) and isinstance(table.index, pd.MultiIndex):
            series = table.iloc[:, 0] if isinstance(table, pd.DataFrame) else table
            table = series.unstack(level="instrument")
        labels = table.columns if isinstance(table, pd.DataFrame) else None
        values: Floats = np.array(table, dtype=np.float64)
        if is_price:
            values = values[1:] / values[:-1] - 1
        if values.ndim != 2 or len(values) < 2:
            raise DataError("A covariance needs at least two returns of each instrument, days by instruments.")
        values = self._deviations(values * 100 if self.scale_return else values)
        if return_decomposed_components:
            return self._parts(values)
        found = self._covariance(values)
        if return_corr:
            deviation = np.sqrt(np.diag(found))
            found = found / np.outer(deviation, deviation)
        return found if labels is None else pd.DataFrame(found, index=labels, columns=labels)

    def _deviations(self, values: Floats) -> Floats:
        if self.nan_option == self.FILL_NAN:
            values = np.nan_to_num(values)
        return values if self.assume_centered else values - np.nanmean(values, axis=0)

    def _covariance(self, values: Floats) -> Floats:
        if self.nan_option != self.MASK_NAN:
            return values.T @ values / len(values)
        there = (~np.isnan(values)).astype(np.float64)
        known = np.nan_to_num(values)
        with np.errstate(invalid="ignore"):  # instruments without common days have no covariance
            return (known.T @ known) / (there.T @ there)

    def _parts(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        raise NotImplementedError


class StructuredCovEstimator(RiskModel):
    """The covariance explained by latent factors, plus independent residuals: ``F cov(B) F' + diag(var(U))``.

    The factors are the principal components of the returns. Missing returns are 0.

    Parameters
    ----------
    factor_model : {"pca"}
        Method for estimating the factors.
    num_factors : int
        Number of factors.
    **kwargs
        See :class:`RiskModel`.

    Raises
    ------
    ConfigError
        For ``factor_model="fa"``, for another `nan_option`, and if there are fewer factors than requested.

    References
    ----------
    J. Fan, Y. Liao, H. Liu, An overview of the estimation of large covariance and precision matrices. Econometrics
    Journal 19 (2016).
    """

    def __init__(self, factor_model: str = "pca", num_factors: int = 10, **kwargs: Any) -> None:
        if factor_model != "pca":
            raise ConfigError(
                f"factor_model {factor_model!r} is not supported. Use 'pca', which takes principal components "
                "as factors.",
                path="factor_model",
            )
        super().__init__(**{"nan_option": self.FILL_NAN, **kwargs})
        if self.nan_option != self.FILL_NAN:
            raise ConfigError(
                "Principal components need complete returns: nan_option must be 'fill'.", path="nan_option"
            )
        self.num_factors = num_factors

    def _parts(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return exposures (instruments, factors), covariance of the factors, variance of the residuals."""
        if not 1 <= self.num_factors <= min(values.shape):
            raise ConfigError(
                f"must be from 1 to {min(values.shape)} for {values.shape[0]} returns of {values.shape[1]} "
                f"instruments, found {self.num_factors}.",
                path="num_factors",
            )
        centered = values - values.mean(axis=0)
        exposures: Floats = np.linalg.svd(centered, full_matrices=False)[2][: self.num_factors].T
        # The sign of a factor is arbitrary: choose the one whose largest exposure is positive.
        largest = np.abs(exposures).argmax(axis=0)
        exposures = exposures * np.where(exposures[largest, np.arange(self.num_factors)] < 0, -1.0, 1.0)
        factors = centered @ exposures
        rests = centered - factors @ exposures.T
        return exposures, np.atleast_2d(np.cov(factors.T)), rests.var(axis=0)

    def _covariance(self, values: Floats) -> Floats:
        exposures, covariance, rests = self._parts(values)
        return exposures @ covariance @ exposures.T + np.diag(rests)
