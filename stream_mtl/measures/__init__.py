"""Measures of quality: each is sums that add up and fade, and the value that follows from them."""

from __future__ import annotations

from stream_mtl.measures.accuracy import Accuracy
from stream_mtl.measures.auc import Auc
from stream_mtl.measures.base import Measure
from stream_mtl.measures.calibration import Calibration
from stream_mtl.measures.ece import Ece
from stream_mtl.measures.f1 import F1
from stream_mtl.measures.gauc import Gauc
from stream_mtl.measures.log_loss import LogLoss
from stream_mtl.measures.macro_f1 import MacroF1
from stream_mtl.measures.mae import Mae
from stream_mtl.measures.ndcg import Ndcg
from stream_mtl.measures.normalized_entropy import NormalizedEntropy
from stream_mtl.measures.rig import Rig
from stream_mtl.measures.rmse import Rmse

MEASURES: dict[str, Measure] = {
    "accuracy": Accuracy(),
    "auc": Auc(),
    "calibration": Calibration(),
    "ece": Ece(),
    "f1": F1(),
    "gauc": Gauc(),
    "log_loss": LogLoss(),
    "macro_f1": MacroF1(),
    "mae": Mae(),
    "ndcg": Ndcg(),
    "normalized_entropy": NormalizedEntropy(),
    "rig": Rig(),
    "rmse": Rmse(),
}
