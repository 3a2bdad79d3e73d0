"""UPGrad: each task's gradient is bent until it harms no task, and the results are averaged."""

from __future__ import annotations

from equipoise.balance._gramian import COST, STATE
from equipoise.balance._preferences import PreferenceBalancer
from equipoise.balance._registry import register


@register("upgrad")
class UPGrad(PreferenceBalancer):
    """Projects each task's gradient onto the directions that harm no task, and averages the projections.

    update = sum_i p_i P(g_i),   P(g) = argmin |d - g|  with  g_j . d >= 0 for every j

    p are the preferences (1 / K each by default). P(g_i) is a non-negative combination of the gradients, found by a
    quadratic programme on the Gramian.

    References:
        Jacobian Descent For Multi-Objective Optimization (Quinton and Rey, 2024)
        https://arxiv.org/abs/2406.16232

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        preferences: task name -> number above 0, for every task; only their ratios count. None: all alike.
        scale: `"one"`: as in the paper, where tasks without conflict weigh 1 / K each; `"tasks"`: times the number of
            tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD or its solver is not installed, a setting is out of its range, or preferences are not of
            the tasks.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0], "label": hidden[:, 1] - hidden[:, 0]}
        >>> balancer = UPGrad(scale="tasks")
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'polarity': 2.0, 'label': 1.5}

    Note:
        For two tasks this is PCGrad. TorchJD's solver divides the Gramian by its trace and adds 1e-4 to the diagonal, so
        a task whose squared norm is below about 1e-4 of all tasks' together is hardly protected. The weights act on
        the heads too.
    """

    family = "gramian"
    source = "Quinton and Rey, 2024: Jacobian Descent For Multi-Objective Optimization"
    url = "https://arxiv.org/abs/2406.16232"
    rule = "the mean of the gradients, each first projected onto the directions that harm no task"
    needs = "shared; extra `quadprog`"
    cost = COST
    state = STATE
    ours = "absent tasks, smoothing, every, scale, double_batch; the weights act on the heads too"

    weighting = "UPGradWeighting"
