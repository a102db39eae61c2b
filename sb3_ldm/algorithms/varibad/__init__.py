from sb3_ldm.algorithms.varibad.policies import MlpLstmPolicy
from sb3_ldm.algorithms.varibad.varibad import VariBAD

__all__ = ["MlpLstmPolicy", "VariBAD"]
