from sb3_ldm.algorithms.emaml.emaml import EMAML
from sb3_ldm.algorithms.emaml.policies import MlpPolicy

__all__ = ["EMAML", "MlpPolicy"]
