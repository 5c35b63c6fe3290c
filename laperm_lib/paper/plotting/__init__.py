"""Pictures of weights and of training: weight profiles, single steps and training curves.

As in seaborn, functions that draw one picture take `ax` and return the Matplotlib axes; those that
lay out several panels return the figure. Nothing is shown and no global setting is changed. Colours
come from seaborn's "colorblind" palette and Matplotlib's "cividis". The look of the book's figures
is a Matplotlib style: `plt.style.use("laperm_lib.paper.plotting.book")`.
"""

from laperm_lib.paper._extras import extra

with extra("paper"):
    from laperm_lib.paper.plotting.animations import animation
    from laperm_lib.paper.plotting.approximation import Sliders, approximation, construction
    from laperm_lib.paper.plotting.curves import over_seeds, shared_legend, training_curves
    from laperm_lib.paper.plotting.interactive import Interactive
    from laperm_lib.paper.plotting.one_step import (
        cycle_search,
        permutation_trace,
        synchronisation_steps,
    )
    from laperm_lib.paper.plotting.profiles import vector_profile, weight_profile

__all__ = [
    "Interactive",
    "Sliders",
    "animation",
    "approximation",
    "construction",
    "cycle_search",
    "over_seeds",
    "permutation_trace",
    "shared_legend",
    "synchronisation_steps",
    "training_curves",
    "vector_profile",
    "weight_profile",
]
