"""What a person looks at: reports on models, pictures, and explanations of what would run. Nothing here imports scikit-learn.

>>> from fastmnist.evaluation import classification_report
>>> print(classification_report([0, 0, 1, 1], [0, 1, 1, 1]).as_text(digits=2))
precision    recall  f1-score   support
<BLANKLINE>
0       1.00      0.50      0.67         2
1       0.67      1.00      0.80         2
<BLANKLINE>
accuracy                           0.75         4
macro avg       0.83      0.75      0.73         4
weighted avg       0.83      0.75      0.73         4
<BLANKLINE>
"""

from __future__ import annotations

from fastmnist.evaluation.calibration import Calibration, measure_calibration
from fastmnist.evaluation.model_evaluation import Evaluation, Mistake, evaluate
from fastmnist.evaluation.report import Confusion, Report, classification_report

__all__ = [
    "Calibration",
    "Confusion",
    "Evaluation",
    "Mistake",
    "Report",
    "classification_report",
    "evaluate",
    "measure_calibration",
]
