from sb3_ldm.mixreg.mixreg import Mixreg
from sb3_ldm.mixreg.policies import MlpLstmPolicy

__all__ = ["Mixreg", "MlpLstmPolicy"]
