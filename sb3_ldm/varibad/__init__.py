from sb3_ldm.varibad.policies import MlpLstmPolicy
from sb3_ldm.varibad.varibad import VariBAD

__all__ = ["MlpLstmPolicy", "VariBAD"]
