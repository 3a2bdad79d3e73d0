"""Puts a balancer into other people's training loops, where one line cannot do it.

Most loops need nothing from here: `loss = balancer(losses, shared=hidden)` is all, as `examples/` shows for plain PyTorch,
Accelerate and Lightning. A stock `transformers.Trainer` hides the line where the loss becomes a scalar:

    from equipoise.integrations import BalancedTrainer

    trainer = BalancedTrainer(model=model, args=args, ..., balancer=DAO(tasks=["score", "label"]), shared="encoder")
"""

from equipoise.integrations._trainer_mixin import BalancedLossMixin, BalancedTrainer

__all__ = ["BalancedLossMixin", "BalancedTrainer"]
