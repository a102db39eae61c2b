from sb3_ldm.ldm.ldm import LDM
from sb3_ldm.ldm.policies import MlpLstmPolicy

__all__ = ["LDM", "MlpLstmPolicy"]
