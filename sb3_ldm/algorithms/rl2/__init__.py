from sb3_ldm.algorithms.rl2.policies import MlpLstmPolicy
from sb3_ldm.algorithms.rl2.rl2 import RL2

__all__ = ["RL2", "MlpLstmPolicy"]
