"""The registered environment ids. Nothing is imported but gymnasium until an environment is made."""

import gymnasium as gym

GRID_IDS = ("GridNavi-v0", "GridNaviExtrapolation-v0")
DOORS_IDS = ("Doors-v0",)
LOCOMOTION_IDS = (
    "AntDirection-v0",
    "AntGoal-v0",
    "HalfCheetahVelocity-v0",
    "HopperMass-v0",
    "WalkerMass-v0",
    "HalfCheetahMassDamping-v0",
    "AntMassDamping-v0",
    "AntCrippled-v0",
)


def register_env_ids() -> None:
    """Register the environments with gymnasium; calling it again changes nothing."""
    for ids, maker in ((GRID_IDS, "make_grid"), (DOORS_IDS, "make_doors"), (LOCOMOTION_IDS, "make_locomotion")):
        for env_id in ids:
            if env_id not in gym.registry:
                # Both checks cost time in every step; the wrapper itself refuses a step before the reset.
                gym.register(
                    env_id,
                    entry_point=f"sb3_ldm.envs.registration:{maker}",
                    kwargs={"env_id": env_id},
                    disable_env_checker=True,
                    order_enforce=False,
                )
