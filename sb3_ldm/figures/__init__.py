"""Figures of finished runs, drawn from their result files only.

``python -m sb3_ldm.figures RUN_DIR [RUN_DIR ...] --out DIR`` draws whatever the folders allow. The files that it reads are
described in :mod:`sb3_ldm.results`, the figure numbers are those of the LDM paper.
"""

from sb3_ldm.figures.draw import draw_figures
from sb3_ldm.figures.plan import MUTED, STYLE, Plan, references_of

__all__ = ["MUTED", "STYLE", "Plan", "draw_figures", "references_of"]
