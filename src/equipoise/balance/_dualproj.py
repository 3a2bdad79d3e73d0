"""DualProj: the mean gradient is bent until it harms no task, as gradient episodic memory does."""

from __future__ import annotations

from equipoise.balance._gramian import COST, STATE
from equipoise.balance._preferences import PreferenceBalancer
from equipoise.balance._registry import register


@register("dualproj")
class DualProj(PreferenceBalancer):
    """Projects the mean of the gradients onto the directions that harm no task.

    update = argmin |d - sum_i p_i g_i|  with  g_j . d >= 0 for every j

    p are the preferences (1 / K each by default). The update is a non-negative combination of the gradients.

    References:
        Gradient Episodic Memory for Continual Learning (Lopez-Paz and Ranzato, 2017)
        https://arxiv.org/abs/1706.08840

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        preferences: task name -> number above 0, for every task; only their ratios count. None: all alike.
        scale: `"one"`: the weighted mean of the gradients, so that tasks without conflict weigh 1 / K each; `"tasks"`:
            times the number of tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD or its solver is not installed, a setting is out of its range, or preferences are not of
            the tasks.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 2, "label": hidden[:, 1] - hidden[:, 0] * 3}
        >>> balancer = DualProj(scale="tasks")
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 2) for task, weight in balancer.last["weights"].items()}
        {'polarity': 1.5, 'label': 1.0}

    Note:
        The paper projects the gradient of the present task against those of past tasks; here, as in TorchJD, all tasks
        are present ones, and their mean is projected. TorchJD's solver divides the Gramian by its trace and adds 1e-4 to
        the diagonal. The weights act on the heads too.
    """

    family = "gramian"
    source = "Lopez-Paz and Ranzato, 2017: Gradient Episodic Memory for Continual Learning"
    url = "https://arxiv.org/abs/1706.08840"
    rule = "the mean gradient, projected onto the directions that harm no task"
    needs = "shared; extra `quadprog`"
    cost = COST
    state = STATE
    ours = "all tasks at once (as TorchJD), absent tasks, smoothing, every, scale, double_batch"

    weighting = "DualProjWeighting"
