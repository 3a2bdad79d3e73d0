"""Judging models: the baselines that stand beside every result."""

from equipoise.evaluation._baselines import baselines

__all__ = ["baselines"]
