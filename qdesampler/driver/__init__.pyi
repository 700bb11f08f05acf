from .checkpoint import CheckpointError as CheckpointError
from .draw_store import StoreError as StoreError
from .mcmc import MCMC as MCMC
from .processes import LostProcessError as LostProcessError
from .progress import Progress as Progress
from .progress import RunReport as RunReport
from .stopping import Until as Until
