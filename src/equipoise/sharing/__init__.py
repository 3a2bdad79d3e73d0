"""A finished run on a model hub: its model, its card, and on request its report. Nothing else of it leaves the machine."""

from equipoise.sharing._push import Pushed, push

__all__ = ["Pushed", "push"]
