"""
Train small agents and print what tells them apart, as JSON: ``python tests/fingerprints.py``.

It uses nothing but the public names, so that earlier commits' code can run it, too (see ``test_same_agents.py``).
"""

import hashlib
import inspect
import json
import sys
from typing import Any

import torch as th

from sb3_ldm import LDM, RL2, Mixreg, VariBAD, make_meta_vec_env

POLICY: dict[str, Any] = {
    "lstm_hidden_size": 16,
    "net_arch": [16],
    "state_in_heads": False,
    "log_std_init": 0.0,
    "features_extractor_kwargs": {"state_embedding": 32, "action_embedding": 16, "reward_embedding": 8},
}
PPO: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": None,
    "ent_coef": 0.05,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "target_kl": None,
    "seed": 3,
    "device": "cpu",
}
DECODER: dict[str, Any] = {"decoder_embeddings": [8, 8], "decoder_layers": [16, 16]}
NETWORK: dict[str, Any] = {
    "latent_dim": 4,
    "dropout_rate": 0.5,
    "kl_weight": 1.0,
    "n_elbo_terms": 4,
    "n_decoded_steps": 6,
    "vae_buffer_size": 50,
    "vae_batch_size": 4,
    "vae_updates": 2,
    "vae_learning_rate": 1e-3,
    "vae_buffer_keeps": "latest",
    "vae_kwargs": {"encoder_hidden_size": 16, "encoder_embeddings": [8, 0, 4], **DECODER},
}
BERNOULLI: dict[str, Any] = {
    "reward_likelihood": "bernoulli",
    "bernoulli_rewards": [-0.1, 1.0],
    "decoder_inputs": ["next_state"],
}
IMAGINATION: dict[str, Any] = {
    "mixture_ratio": 0.375,
    "imagination_starts": 100,
    "beta": 1.5,
    "n_partners": 3,
    "mixture_weights": "per_dimension",
    "mixed_belief": "mean",
    "mixture_time": "final",
    "imaginary_reward": "mean",
    "imagination_dropout": "step",
}
CHOSEN: dict[str, Any] = {
    "imaginary_reward": "threshold",
    "imagination_dropout": "meta_episode",
    "n_candidates": 4,
    "require_goal": True,
}
GAUSSIAN: dict[str, Any] = {"reward_likelihood": "gaussian", "imagination_dropout": "off", "imagination_requires": None}
GRID = ("GridNavi-v0", {"horizon": 12, "episodes_per_task": 2})
CHEETAH = ("HalfCheetahVelocity-v0", {"horizon": 15})

AGENTS: dict[str, tuple[type, tuple[str, dict[str, Any]], dict[str, Any]]] = {
    "ldm": (LDM, GRID, {**NETWORK, **BERNOULLI, **IMAGINATION, **CHOSEN}),
    "ldm_current": (LDM, GRID, {**NETWORK, **BERNOULLI, **IMAGINATION, "mixture_time": "current", "mixed_belief": "sample"}),
    "rl2": (RL2, GRID, {"batch_size": 96}),
    "varibad": (VariBAD, GRID, {**NETWORK, **BERNOULLI, "vae_kwargs": DECODER, "rl_loss_through_encoder": False}),
    "mixreg": (Mixreg, GRID, {}),
    "ldm_cheetah": (LDM, CHEETAH, {**NETWORK, **IMAGINATION, **GAUSSIAN}),
}


def fingerprint(name: str) -> str:
    """
    :param name: of an agent
    :return: a hash of its networks, of their optimisers and of where its environments are, after a short training
    """
    algorithm, (env_id, env_kwargs), options = AGENTS[name]
    env = make_meta_vec_env(env_id, n_envs=8, seed=3, backend="dummy", env_kwargs=env_kwargs)
    if "scale_rewards" in inspect.signature(algorithm).parameters:  # which the reference does not know, and does not do
        options = {**options, "scale_rewards": False}
    model = algorithm("MlpLstmPolicy", env, policy_kwargs=POLICY, **{**PPO, **options})
    model.learn(6 * 8 * model.n_steps)
    digest = hashlib.sha256(model._last_obs.tobytes())
    # In the order of the names that they have now; "vae" was "latent_dynamics".
    networks = {name.replace("latent_dynamics", "vae"): state for name, state in model.get_parameters().items()}
    for _, state in sorted(networks.items()):
        for tensor in _tensors(state):
            digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def _tensors(state: Any) -> list[th.Tensor]:
    if isinstance(state, th.Tensor):
        return [state]
    if isinstance(state, dict):
        return [tensor for key in sorted(state, key=str) for tensor in _tensors(state[key])]
    return []


if __name__ == "__main__":
    th.set_num_threads(1)
    print(json.dumps({name: fingerprint(name) for name in sys.argv[1:] or AGENTS}))
