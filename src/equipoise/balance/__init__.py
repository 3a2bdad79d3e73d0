"""Balances the losses of several tasks: one scalar in place of `loss = sum(losses.values())`.

    balancer = DAO()
    ...
    hidden = backbone(batch)                                     # [n, d], what the tasks share
    losses = {"polarity": mse(head_a(hidden), scores),           # scalars, or one value per example
              "label": cross_entropy(head_b(hidden), classes)}
    loss = balancer(losses, shared=hidden)
    loss.backward()

A balancer returns one scalar whose backward is the balanced update; its weights are constants. So it works unchanged
under autocast, gradient scaling, accumulation, checkpointing, LoRA, DDP and FSDP. This package imports torch and our
errors, nothing else, and can be dropped into any training loop.

How it is built: `_base.py` checks what comes in and returns the scalar; `_gradients.py` measures how hard each task
pulls; `_state.py` keeps what is remembered, as tensors; `_data_weights.py` reads the labels; each method is one file
with one class, registered by name in `_registry.py`. To write a method, subclass `Balancer` and give it `weigh`:

    @register("random")
    class Random(Balancer):
        def weigh(self, losses, present, statistics):            # all [tasks]
            return torch.rand_like(losses).softmax(0)
"""

from equipoise.balance._aligned_mtl import AlignedMTL
from equipoise.balance._base import Balancer
from equipoise.balance._batch import NotFiniteError
from equipoise.balance._cagrad import CAGrad
from equipoise.balance._coba import CoBa
from equipoise.balance._cosine_penalty import GradientCosinePenalty
from equipoise.balance._cov import CoV
from equipoise.balance._dao import DAO
from equipoise.balance._data_weights import DataWeights
from equipoise.balance._db_mtl import DBMTL
from equipoise.balance._dualproj import DualProj
from equipoise.balance._dwa import DWA
from equipoise.balance._encodec import EnCodecBalancer
from equipoise.balance._equal import Equal
from equipoise.balance._excess_mtl import ExcessMTL
from equipoise.balance._explore_then_freeze import ExploreThenFreeze
from equipoise.balance._fairgrad import FairGrad
from equipoise.balance._famo import FAMO
from equipoise.balance._fixed import Fixed
from equipoise.balance._geometric_mean import GeometricMean
from equipoise.balance._gradients import GradientStatistics, measure
from equipoise.balance._gradnorm import GradNorm
from equipoise.balance._gradnorm_closed import GradNormClosedForm
from equipoise.balance._gradvac import GradVac
from equipoise.balance._gramian import GramianBalancer
from equipoise.balance._imtl_g import IMTLG
from equipoise.balance._imtl_l import IMTLL
from equipoise.balance._lbtw import LBTW
from equipoise.balance._log_sum import LogSum
from equipoise.balance._metabalance import MetaBalance
from equipoise.balance._mgda import MGDA
from equipoise.balance._modo import MoDo
from equipoise.balance._nash_mtl import NashMTL
from equipoise.balance._norm_equaliser import NormEqualiser
from equipoise.balance._norms import NormBalancer
from equipoise.balance._pcd import PCD
from equipoise.balance._pcgrad import PCGrad
from equipoise.balance._priority import Priority
from equipoise.balance._random import RandomWeighting
from equipoise.balance._recompute_every import RecomputeEvery
from equipoise.balance._registry import available, create, defaults_of, describe, register
from equipoise.balance._running_average import RunningAverage
from equipoise.balance._sdmgrad import SDMGrad
from equipoise.balance._stch import STCH
from equipoise.balance._torchjd import TorchJDBalancer
from equipoise.balance._uncertainty import UncertaintyWeighting
from equipoise.balance._upgrad import UPGrad
from equipoise.balance._uw_so import UWSO

__all__ = [
    "DAO",
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "LBTW",
    "MGDA",
    "PCD",
    "STCH",
    "UWSO",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "CoBa",
    "CoV",
    "DataWeights",
    "DualProj",
    "EnCodecBalancer",
    "Equal",
    "ExcessMTL",
    "ExploreThenFreeze",
    "FairGrad",
    "Fixed",
    "GeometricMean",
    "GradNorm",
    "GradNormClosedForm",
    "GradVac",
    "GradientCosinePenalty",
    "GradientStatistics",
    "GramianBalancer",
    "LogSum",
    "MetaBalance",
    "MoDo",
    "NashMTL",
    "NormBalancer",
    "NormEqualiser",
    "NotFiniteError",
    "PCGrad",
    "Priority",
    "RandomWeighting",
    "RecomputeEvery",
    "RunningAverage",
    "SDMGrad",
    "TorchJDBalancer",
    "UPGrad",
    "UncertaintyWeighting",
    "available",
    "create",
    "defaults_of",
    "describe",
    "measure",
    "register",
]
