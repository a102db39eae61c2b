from sb3_ldm.algorithms.maml.maml import MAML
from sb3_ldm.algorithms.maml.policies import MlpPolicy

__all__ = ["MAML", "MlpPolicy"]
