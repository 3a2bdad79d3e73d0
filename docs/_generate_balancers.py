"""Writes docs/balancers.md from the balancer classes: `python docs/_generate_balancers.py`, or `--check` to compare."""

import sys
from pathlib import Path

from _page import write_or_check

from equipoise.balance import describe

PAGE = Path(__file__).with_name("balancers.md")

HEAD = """\
# Balancing methods

<!-- Written by docs/_generate_balancers.py from the classes. Change those, then run it again. -->

A balancer takes the tasks' losses and returns one scalar whose backward is the balanced update. Its weights are
constants of the step. Choose one by name, in a recipe (`balance: {method: dao}`) or in Python:

```python
from equipoise.balance import create

balancer = create("dao", ["polarity", "label"], smoothing=0.9)
loss = balancer(losses, shared=hidden, targets=targets)  # in place of sum(losses.values())
loss.backward()
print(balancer.last["weights"])
```

| method | source | rule | needs | cost | state | ours |
| --- | --- | --- | --- | --- | --- | --- |
"""

TAIL = """
*Cost* is what a method adds to one ordinary backward. *Ours* is what is not in the source. Settings:

{settings}

Published comparisons ([2201.04122](https://arxiv.org/abs/2201.04122), [2209.11379](https://arxiv.org/abs/2209.11379))
find that fixed weights, **tuned** on validation data, match most methods that adapt. Compare with that arm before you
believe any other.

## What every balancer does

- **Absent tasks.** A task without an example in a batch adds nothing, and keeps its statistics. Weights refer to all
  tasks of the run, never only to those present.
- **Numbers that are not finite.** A loss or gradient that is NaN or infinite is an error that names the task, before
  any state changes. With `on_nonfinite="skip"` the task is left out of that step, counted in `balancer.skipped`, and
  logged.
- **Evaluation.** Under `torch.no_grad()` or after `.eval()` you get the plain losses under the last weights. Nothing is
  measured or remembered.
- **State** is tensors only, the tasks' names included. A restored balancer goes on to the bit.
- **Logs.** `balancer.last` holds losses, weights, gradient norms and cosines as plain numbers; they leave the device
  when it is read. `monitor=True` measures norms and cosines for methods that do not need them.
- **Cosines** at a representation mean nothing if two tasks touch no common row: they are left out, not reported as 0.
  Take them at shared parameters: `shared=list(layer.parameters())`.

## DAO: what is the paper's and what is ours

The paper is Ding et al., 2024, [arXiv 2408.11856](https://arxiv.org/abs/2408.11856). We know its abstract and what
others tell of it, not its full text.

**The paper's.** Two tasks on one text, the regression of a polarity score (r) and a classification (c). The loss of a
step is `L = lambda_r w_r L_r + lambda_c w_c L_c`, with `lambda_r = |g_c| / (|g_r| + |g_c|)` and
`lambda_c = |g_r| / (|g_r| + |g_c|)`, where g is the gradient of the task's plain loss.

**What follows.** For K tasks, `lambda_i = (1/n_i) / sum_j (1/n_j)` with `n_i = |g_i|`. Every task then pushes with the
same force, `1 / sum_j (1/n_j)`, and never harder than the weakest alone. So a task that is nearly solved slows all
others down.

**Ours**, each a named choice that can be switched off:

- *Where g is measured.* At the representation that the heads are fed with (cheap), or at any shared parameters. The
  two give different ratios.
- *A task without gradient.* A norm that is not above `epsilon` times the largest is left out of the sum, as is a task
  never seen; it gets the weight that the median norm would have. By the bare formula it would take all the weight and
  stop the others.
- *`floor`.* A norm counts as at least this share of the median norm. This bounds how far a fading task slows the rest.
- *`own_floor`* (0.5 by default). A norm counts as at least this share of the task's own mean norm so far. A task that is
  learned by heart has almost no gradient, and by the bare formula takes almost all the weight; `floor` would stop that at
  the price of balance between tasks in unlike units, this does not see units. `null` is the bare formula.
- *`scale`.* `"one"`: the lambdas sum to 1, as in the paper, which divides the effective learning rate by K against a
  plain sum. `"tasks"`: they sum to K. A task left out of the sum does not count.
- *`smoothing`, `every`.* A running average of the norms; measuring each N steps.
- *`double_batch`.* Norms of one noisy batch bias the weights that multiply that same noise. Here the even examples are
  weighed by the norms of the odd ones, and the other way round, so that every example trains and no weight knows the
  noise it multiplies. (If tasks label different rows, each task is halved by itself.)
- *w*, the answer to labels that are unevenly distributed in a batch. Its form in the paper is not known to us. Ours:

  | `data_weights` | labels | weight |
  | --- | --- | --- |
  | `inverse_frequency` | integer `[n]` | one an example of class c: `s_c ^ -exponent`, mean 1 over the batch |
  | `density` | floating-point `[n]` | the same, with s the label's density |
  | `entropy` | either | one a task: entropy / log(classes seen), at least 0.1, mean 1 over tasks |
  | a mapping `{task: name}` | as above | a rule for each task; labels that do not fit are an error |

  The share s_c of a class is the batch's, blended with its running average (`data_smoothing`). A density is a histogram
  of 64 bins, blended alike, and smoothed by a Gaussian kernel. One name for all tasks weighs those whose labels fit it
  and leaves the others at 1. The gradient is measured on the plain loss, so w survives the balancing: with `entropy`
  the tasks push in the exact proportion of their w.
"""


def page() -> str:
    """Returns the page as it should be."""
    rows = describe()
    lines = [
        f"| `{row['method']}` (`{row['class']}`) | [{row['source']}]({row['url']}) | {row['rule']} | {row['needs']} "
        f"| {row['cost']} | {row['state']} | {row['ours']} |"
        for row in rows
    ]
    settings = "\n".join(f"- `{row['method']}`: " + row["settings"] for row in rows)
    return HEAD + "\n".join(lines) + "\n" + TAIL.replace("{settings}", settings)


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page, __file__))
