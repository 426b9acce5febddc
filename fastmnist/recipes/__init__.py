"""Published work on MNIST as recipes: what was published, the same set-up with this library, and both side by side.

| file | what stands there |
| --- | --- |
| `catalog.py` | the recipes: a few lines each |
| `recipe.py` | what a recipe consists of |
| `splits.py` | the sources' divisions of the data |
| `running.py` | fits, seed by seed, that can be interrupted and continued |
| `results.py` | what was measured; the table; what counts as met |
| `peer_times.py` | how long the sources' software takes, from records |
| `pictures.py` `page.py` | what a person looks at |
"""

from __future__ import annotations

from fastmnist.recipes.catalog import RECIPES, find
from fastmnist.recipes.recipe import Line, Recipe, System
from fastmnist.recipes.results import RecipeResult, Row, Run, rows_of
from fastmnist.recipes.running import reproduce

__all__ = ["RECIPES", "Line", "Recipe", "RecipeResult", "Row", "Run", "System", "find", "reproduce", "rows_of"]
