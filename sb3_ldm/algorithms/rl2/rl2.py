"""RL2: fast reinforcement learning via slow reinforcement learning."""

from typing import TypeVar

from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_ldm.on_policy import SequencePPO

SelfRL2 = TypeVar("SelfRL2", bound="RL2")


class RL2(SequencePPO):
    """
    RL2 (Duan et al. 2016, https://arxiv.org/abs/1611.02779): a recurrent policy that learns within a task.

    It sees the state, the previous action, the previous reward and the inner done flag; its recurrent state lasts over the N
    episodes of a task, and the return of the whole meta-episode is what it maximises. All of that is in the environment's
    meta-episodes, so RL2 is recurrent PPO on them: LDM without mixture workers and without a latent dynamics network.

    Parameters are those of :class:`~sb3_ldm.on_policy.SequencePPO`.
    """

    def learn(
        self: SelfRL2,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RL2",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRL2:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
