"""RL2: fast reinforcement learning via slow reinforcement learning."""

from sb3_ldm.on_policy import SequencePPO
from sb3_ldm.options import takes_options_of


@takes_options_of(SequencePPO)
class RL2(SequencePPO):
    """
    RL2 (Duan et al. 2016, https://arxiv.org/abs/1611.02779): a recurrent policy that learns within a task.

    It sees the state, the previous action, the previous reward and the inner done flag; its recurrent state lasts over the N
    episodes of a task, and the return of the whole meta-episode is what it maximises. All of that is in the environment's
    meta-episodes, so RL2 is recurrent PPO on them: LDM without mixture workers and without a VAE.
    """
