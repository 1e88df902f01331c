"""What is used of lm-evaluation-harness, in one place; importing it takes seconds."""

from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from jobs.evaluation.harness.model import BatchModel

__all__ = ["BatchModel", "EvaluationTracker", "TaskManager", "make_table", "simple_evaluate"]
