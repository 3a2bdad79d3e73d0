"""Does balancing help on my data? Several methods on the same rows and seeds, and which differences are real.

`compare` trains the arms (methods, single-task models, searched constants, ablations), `Comparison` is the folder that
it writes. The judging is `equipoise.evaluation`'s, the page `equipoise.report`'s.
"""

from equipoise.comparison._compare import compare
from equipoise.comparison._folder import Comparison
from equipoise.comparison._texts import grid_of, seeds_of, split_methods

__all__ = ["Comparison", "compare", "grid_of", "seeds_of", "split_methods"]
