from sb3_ldm.algorithms.ldm.ldm import LDM
from sb3_ldm.algorithms.ldm.policies import MlpLstmPolicy

__all__ = ["LDM", "MlpLstmPolicy"]
