"""Pictures of weights and of training: weight profiles, permutation traces and learning curves.

As in seaborn, functions that draw one picture take `ax` and return the Matplotlib axes, those that
lay out several return the figure. Nothing is shown and no global setting is changed. Colours come
from seaborn's "colorblind" palette and Matplotlib's "cividis". The look of the book's figures is a
Matplotlib style: `plt.style.use("laperm_lib.paper.plotting.book")`.
"""

from laperm_lib.paper.plotting.curves import training_curves
from laperm_lib.paper.plotting.interactive import Interactive
from laperm_lib.paper.plotting.moving import moving_picture
from laperm_lib.paper.plotting.profiles import MAX_LINES, MAX_POINTS, vector_profile, weight_profile
from laperm_lib.paper.plotting.seeds import NOTHING, over_seeds, shared_legend
from laperm_lib.paper.plotting.steps import synchronisation_steps
from laperm_lib.paper.plotting.traces import permutation_trace

__all__ = [
    "MAX_LINES",
    "MAX_POINTS",
    "NOTHING",
    "Interactive",
    "moving_picture",
    "over_seeds",
    "permutation_trace",
    "shared_legend",
    "synchronisation_steps",
    "training_curves",
    "vector_profile",
    "weight_profile",
]
