"""Writes docs/balancers.md from the balancer classes: `python docs/_generate_balancers.py`, or `--check` to compare."""

import re
import sys
from pathlib import Path

from _page import write_or_check

from equipoise.balance import describe
from equipoise.balance._registry import by_family

PAGE = Path(__file__).with_name("balancers.md")

HEAD = """\
# Balancing methods

<!-- Written by docs/_generate_balancers.py from the classes. Change those, then run it again. -->

A balancer takes the tasks' losses and returns one scalar whose backward is the balanced update. Choose one by name, in a
recipe (`balance: {method: dao}`) or in Python:

```python
from equipoise.balance import create

balancer = create("dao", ["polarity", "label"], smoothing=0.9)
loss = balancer(losses, shared=hidden, targets=targets)  # in place of sum(losses.values())
loss.backward()
print(balancer.last["weights"])
```

`equipoise balancers` lists the methods of this page and those of other packages, `equipoise balancers NAME` tells all
about one, and [recipe.md](recipe.md#balance) has every setting with its default and its meaning. A method of your own:
[write-a-balancer.md](write-a-balancer.md).

Published comparisons ([2201.04122](https://arxiv.org/abs/2201.04122), [2209.11379](https://arxiv.org/abs/2209.11379))
find that fixed weights, **tuned** on validation data, match most methods that adapt. Compare with that arm before you
believe any other.

## The methods

*Needs* is what the call takes beside the losses: `shared` is the representation or the shared parameters
([where to measure](#where-to-measure)). *Cost* is what a method adds to one ordinary backward. *Ours* is what is not in
the source.
"""

TAIL = """
## What every balancer does

- **Absent tasks.** A task without an example in a batch adds nothing, and keeps its statistics. Weights refer to all
  tasks of the run, never only to those present.
- **Numbers that are not finite.** A loss or gradient that is NaN or infinite is an error that names the task, before
  any state changes. With `on_nonfinite="skip"` the task is left out of that step, counted in `balancer.skipped`, and
  logged.
- **The heads** get the weighted sum too. Papers of methods that change the shared gradients (PCGrad, CAGrad, UPGrad and
  others) mostly leave the heads' gradients alone; here one scalar trains both.
- **Evaluation.** Under `torch.no_grad()` or after `.eval()` you get the plain losses under the last weights. Nothing is
  measured or remembered.
- **State** is tensors only, the tasks' names included. A restored balancer goes on to the bit.
- **Logs.** `balancer.last` holds losses, weights, gradient norms and cosines as plain numbers; they leave the device
  when it is read. `monitor=True` measures norms and cosines for methods that do not need them. At parameters, methods from
  norms leave the cosines out, which would cost more than the norms; `balancer.needs_angles = True` measures them there too.
- **Cosines** at a representation mean nothing if two tasks touch no common row: they are left out of `last`, not reported
  as 0. See [tasks on different batches](#tasks-on-different-batches).
- **One task.** A run of one task trains it with a weight above 0. In a batch with only one of several tasks the others are
  absent, no more.

Each of these is an error that names the task where there is one: no loss at all, or no example for any task; a task that
is not of the run (the nearest name is told); a loss that is no floating-point scalar or `[n]`, or that carries no
gradient; a negative loss for a method that is defined for losses of zero or more; a `shared` that needs no gradient, or
that no loss depends on; a loaded state of other tasks.

## Where to measure

Methods that need `shared` measure each task's gradient there, by `torch.autograd.grad`: it fills no `.grad`, and your own
`backward` stays the only one. In a recipe it is `balance.shared`; in Python it is what you pass, and the balancer asks for
nothing else: a tensor that is no parameter is a representation.

| `balance.shared` | in Python | what is walked back, for each task | not seen |
| --- | --- | --- | --- |
| `representation` | the tensor `[n, d]` that the heads were fed with | its head | the backbone |
| `last_layer` | `list(block.parameters())` of the last block | its head and that block | the layers below |
| `adapter` | the adapter's trained parameters | head and backbone, for the adapter's gradients only | nothing else trains |
| `all` | every trained parameter that the tasks share | head and backbone | nothing |

[Blocks and adapters of a task's own](conflict.md) leave the representation what it is, each task's own, and are no part of
the other places: `last_layer` is the last shared block, `adapter` of mtl_lora what the tasks share (A and the B's).

At the representation a norm counts each row by itself: it does not see that two rows pull a parameter in opposite
directions, nor what the backbone makes of a pull.

### How well the cheap places stand for all parameters

![Ratio of norms, cosine and resulting weight at three places, on SST and EmoBank](images/scopes.png)

`benchmarks/scopes.py` trains the SST and the EmoBank recipe for 400 steps with DAO and measures the same batches at three
places. One seed, the bundled encoder; the training itself used the representation.

| against all shared parameters | SST, representation | SST, last layer | EmoBank, representation | EmoBank, last layer |
| --- | --- | --- | --- | --- |
| ratio of two norms, off by a factor of (median) | 1.19 | 1.12 | 2.01 | 1.23 |
| the same, 90th percentile | 1.72 | 1.37 | 3.52 | 1.64 |
| order of the norms agrees | 98 % | 99 % | 91 % | 97 % |
| cosine of two gradients, off by (median) | .60 | .17 | .07 | .04 |
| sign of that cosine agrees | 100 % | 98 % | 62 % | 76 % |
| cosine of DAO's update with the exact one (median) | .9998 | .9999 | .864 | .985 |
| strongest pull / weakest pull after weighing (DAO aims at 1) | 1.19 | 1.12 | 4.35 | 1.59 |

- **Norms.** On SST, a score and classes derived from it, the representation is as good as exact: its error is less than the
  factor of 1.31 by which the exact ratio moves between measured batches. On EmoBank, three scores and a genre, it understates
  the genre's pull by 2.2 to 3.8, so the genre gets 2.6 times its exact weight. It still does most of the balancing: with
  equal weights the strongest task pulls 71 times as hard as the weakest, and the update's cosine with the exact one is .53.
- **Angles.** A cosine at the representation is no stand-in for one of parameters: on SST its median is .27 where all
  parameters say .86, and on EmoBank, where the true ones are near zero, its sign is little better than a coin.
- **What follows: `balance.shared: auto`**, the default. Methods from norms are measured at the representation, because of its
  price; where tasks of unlike kinds share a model, `last_layer` is closer. Methods from angles (the Gramian family, ExcessMTL)
  and GradNorm, as in its paper, are measured at the last layer; DB-MTL and MetaBalance, which combine the gradients of all
  shared parameters, there. `all` is exact.
- **Not measured:** whether weights nearer to the exact ones train a better model, other encoders, more seeds.

- **Exactness.** Every place is measured exactly for what it is: against plain float64 autograd to 1e-10. The question is
  only whether its norms and angles stand for those of all shared parameters.
- **The update.** At parameters the tasks' gradients are known after the measurement. Where a further backward of the
  weighted loss would cost more than walking each task back to its head as well, they become the update themselves, and the
  scalar's backward only hands them over. Its value is the weighted loss either way. (Not so with data weights, whose
  gradients are not the measured ones.)
- **Methods with an update of their own** (DB-MTL, MetaBalance) combine the gradients themselves, at parameters only. At a
  representation they return weights.
- **`every=N`** measures each N-th step and keeps what was found, which divides the cost of measuring by N.
- **`retain_graph`.** Where the gradients become the update, measuring frees the losses' graph, as a backward would. If you
  call a backward of your own on the losses, set `balancer.retain_graph = True` first.
- **Checkpointed activations** must be non-reentrant (`use_reentrant=False`) to be measured at parameters; so PyTorch wants
  it. At the representation either kind works.
- **What the gradients cannot be the update of.** With float16, with a hook on a parameter's gradient (`register_hook`), and
  behind reentrant checkpointing, one more backward is taken instead. Autograd functions that call a `backward` of their own
  inside (reversible layers, some offloading) would run it once for each task: measure at the representation there.
- **A compiled backbone** frees its buffers in the first walk back. To measure it at parameters, set
  `torch._functorch.config.donated_buffer = False` before compiling. At the representation nothing is needed, as long as the
  heads are not compiled with it.

## Tasks on different batches

Call the balancer once a step with the losses of all batches ([examples/different_batches.py](../examples/different_batches.py)):

- `shared=list(backbone.parameters())` is exact. The tasks' graphs are separate, so measuring each is one backward of its
  own batch, and together they are the update: no walk is made twice.
- `shared=[hidden_a, hidden_b]` walks back only the heads. The norms are of different rows, and that of a mean over n rows
  is about 1 / sqrt(n) as large: keep the batches the same size.
- Two tasks that touch no common row of a representation are orthogonal there by construction, which says nothing on
  conflict. Methods that work with angles refuse such a batch and name the two tasks, unless an earlier batch showed both
  tasks on common rows: then the last known cosine counts.
- A step may also carry one task only. The others are absent: they keep their statistics, and still count in the weights.

## Accumulation

Each call in training is one step of the statistics, so with accumulation every micro-batch is one: it is weighed by what it
shows itself, and running averages advance once a micro-batch. The accumulated gradient is the sum of the micro-batches'
balanced gradients. It equals that of one large batch only for methods with constant weights (`equal`, `fixed`), and there
only if the micro-batches carry equally many examples of each task, since each micro-batch takes its own mean.

## Several processes

Under DDP, or any other way of averaging gradients over processes, the balancer finds the default process group by itself:

- Losses are joined as sums and counts over all ranks, so the weights are those of one process on the joined batch, and the
  same on every rank; so are the label shares and entropies of data weights. A scalar loss counts as one example: pass one
  loss per example (`[n]`) where ranks have unequal shares of a task.
- Gradients at parameters are added up over ranks before anything is computed from them. At a representation each rank has
  rows of its own, so there the sums of squares and products are added up. (The mean of the ranks' own norms would be
  too large, by the noise within each rank.)
- Each rank's scalar is its share of the weighted loss, scaled such that the **average** of the ranks' gradients is the
  update.
- Give `tasks=[...]`: the order of the losses in each rank's mapping would not do.
- Every rank must call the balancer in every step, and walk back through every head. Pass a task without an example on this
  rank as an empty tensor with a graph: the loss of its head on `hidden[:0]`, one value per example. A rank that has nothing
  at all to pass is an error on every rank, so that none waits for ever.
- FSDP2 and tensor parallelism: no process has a whole gradient of a sharded parameter, so parameters are refused there.
  Measure at the representation. (Each walk back through a head then gathers its weights once more.)
- `balancer.process_group` is `"world"` (the default group, where one was started), a process group, or `None` for a balancer
  that looks at this process alone.
- Scoring (`torch.no_grad()` or `.eval()`) exchanges nothing: each rank gets the loss of its own rows.

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
    ours = [row for row in describe() if row["package"] == "equipoise"]
    parts = [HEAD, *(_table(title, rows) for title, rows in by_family(ours).items()), TAIL]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _table(family: str, rows: list[dict[str, str]]) -> str:
    lines = [
        f"### {family}\n",
        "| method | source | rule | needs | cost | state | ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        source = f"[{_cell(row['source'])}]({row['url']})"
        told = [_cell(row[key]) for key in ("rule", "needs", "cost", "state", "ours")]
        lines.append("| " + " | ".join([f"`{row['method']}` (`{row['class']}`)", source, *told]) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text as a cell of a table: nothing in a formula is markup."""
    return re.sub(r"([|*<])", r"\\\1", text)


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page, __file__))
