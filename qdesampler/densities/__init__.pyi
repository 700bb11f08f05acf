from .errors import BudgetError as BudgetError
from .errors import EvaluationError as EvaluationError
from .parameters import Parameter as Parameter
from .progress import EvaluationProgress as EvaluationProgress
from .run import DensityRun as DensityRun
from .sample_density import sample as sample
