from sb3_ldm.algorithms.mixreg.mixreg import Mixreg
from sb3_ldm.algorithms.mixreg.policies import MlpLstmPolicy

__all__ = ["Mixreg", "MlpLstmPolicy"]
