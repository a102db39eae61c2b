from sb3_ldm.algorithms.promp.policies import MlpPolicy
from sb3_ldm.algorithms.promp.promp import ProMP

__all__ = ["MlpPolicy", "ProMP"]
