"""
Plausible faults of the core, to see whether the tests bite: ``make mutants``, or ``python tests/mutants.py --room ldm``.

Each is put alone into a copy of the package, whose tests must then fail. Where code is rewritten, its mutants are, too.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: What the tests need of the repository, besides themselves.
COPIED = ("sb3_ldm", "zoo_configs", "benchmarks", "tests", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "docs")

PACKAGE = "sb3_ldm"

#: What the faults of the core are about.
ROOMS = ("policy", "inference", "evaluation", "vec_env", "envs", "ldm", "baselines")


class Mutant(NamedTuple):
    """A text that stands once in a file, what replaces it, and the tests that must notice."""

    room: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file, from the repository's root."""
        return f"{PACKAGE}/{self.file}"

    def __str__(self) -> str:
        return f"{self.path}: {self.old.strip()!r} -> {self.new.strip()!r}"


def _of(room: str, file: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    """Faults of a file: the text, the new text, and the names of test files, without what all have in common."""
    return [Mutant(room, file, old, new, tuple(f"test_{name}.py" for name in tests.split())) for old, new, tests in faults]


MUTANTS = [
    # A memory that outlives its episode, or does not last as long as it
    *_of(
        "policy",
        "nets/sequences.py",
        ("(1.0 - starts[:, 0])", "th.ones_like(starts[:, 0])", "sequences"),
        ("bool(starts[:, 1:].any())", "bool(starts[:, 1:-1].any())", "sequences"),
        ("th.where(at_sequence_start, state[:, sequence], 0.0)", "state[:, sequence]", "sequences"),
        ("input_gate.copy_(-remembered)", "input_gate.copy_(remembered)", "sequences rl2"),
    ),
    *_of(
        "policy",
        "on_policy/ppo_loss.py",
        ("surrogate = th.min(", "surrogate = th.max(", "sharding"),
        ("(ratio - 1.0 - log_ratio)", "(-log_ratio)", "sharding"),
    ),
    *_of(
        "policy",
        "on_policy/sequence_ppo.py",
        ("(batch.advantages - shift) / scale", "batch.advantages / scale", "sharding"),
        ("> 1.5 * self.target_kl", "> 3.0 * self.target_kl", "sharding"),
        ("+= self.gamma * values", "+= values", "misuse"),
    ),
    *_of("policy", "data/rollouts.py", ("max(1, n_envs //", "max(1, 1 + n_envs //", "sequences rl2")),
    *_of("policy", "nets/distributions.py", ("(0.5 + _LOG_SQRT_2PI + log_std)", "(_LOG_SQRT_2PI + log_std)", "actions")),
    # The objective, and which steps and meta-episodes count
    *_of(
        "inference",
        "inference/elbo.py",
        ("th.cat([th.zeros_like(logvar[:1]), logvar[:-1]])", "th.cat([logvar[:1], logvar[:-1]])", "vae"),
        ("* th.exp(-previous_logvar)", "* th.exp(-logvar)", "vae"),
    ),
    *_of(
        "inference",
        "inference/vae.py",
        ('-share * parts["elbo"]', '-parts["elbo"]', "vae"),
        ("term_scale * term_mask[terms]", "term_mask[terms]", "vae"),
        ("step_scale * step_mask", "step_mask", "vae"),
    ),
    *_of(
        "inference",
        "data/meta_episodes.py",
        ("begins = episode_step == 0", "begins = time == 0", "vae"),
        ("np.flatnonzero(step.dones & whole)", "np.flatnonzero(step.dones)", "vae ldm"),
        ("self._rng.integers(self.n_seen)", "self._rng.integers(self.capacity)", "vae"),
    ),
    *_of(
        "inference",
        "inference/networks.py",
        ("(1.0 - share) * delta**2", "delta**2", "vae"),
        (">= rate) / (1.0 - rate)", ">= rate) * 1.0", "vae"),
    ),
    *_of(
        "inference",
        "on_policy/recording_vec_env.py",
        ("self.reader.start(self.venv, obs, episode_starts)", "self.reader.start(self.venv, obs)", "mixture ldm"),
    ),
    # What an agent sees of a meta-episode, and an evaluation that leaves traces
    *_of(
        "evaluation",
        "envs/meta_episode.py",
        ("observations[..., self.done_index] = dones", "observations[..., self.done_index] = 0.0", "meta_episode"),
        ("np.minimum(action_space.low, 0)", "action_space.low", "meta_episode"),
        (
            "self._returns, self._lengths, self._successes = [], [], []",
            "self._returns, self._lengths = [], []",
            "meta_episode",
        ),
    ),
    *_of(
        "evaluation",
        "evaluation/evaluate.py",
        ("np.random.set_state(numpy_state)", "pass", "evaluation"),
        ("one.training = False", "pass", "evaluation"),
        ("one.training = was_training", "pass", "evaluation"),
        ("normalizer.obs_rms = deepcopy(trained_with.obs_rms)", "pass", "evaluation"),
        ("[model.seed, model.num_timesteps]", "[model.seed]", "evaluation"),
        ("step.at.whole & asked_for", "step.at.whole", "evaluation"),
    ),
    *_of(
        "evaluation",
        "evaluation/callbacks.py",
        ("self.last_evaluations[self.splits[0]]", "self.last_evaluations[self.splits[-1]]", "evaluation"),
        ("self._last_timesteps >= self.eval_freq", "self._last_timesteps > self.eval_freq", "evaluation"),
        ("self._last_timesteps != self.num_timesteps", "self.num_timesteps > 0", "evaluation"),
    ),
    # Where one meta-episode ends and the next begins
    *_of(
        "vec_env",
        "envs/steps.py",
        ("> 0.5) | dones", "> 0.5)", "mixture vae"),
        ("next_states = next_states.copy()", "pass", "mixture vae"),
        ("obs if normalizer is None else normalizer.get_original_obs()", "obs", "evaluation mixture steps"),
        ("at._replace(whole=at.whole & ~self._parts_of_two(dones, infos))", "at", "steps"),
        ("next(iter([*normalizers(env)][::-1]), None)", "next(normalizers(env), None)", "steps"),
        ("return rewards if normalizer is None else normalizer.get_original_reward()", "return rewards", "mixture ldm"),
    ),
    *_of(
        "vec_env",
        "envs/batched_meta_vec_env.py",
        ("self._length[indices] = 0", "pass", "batched_vec_env"),
        ("self._return[indices] = 0", "pass", "batched_vec_env"),
        (
            "observations[finished, self.layout.state_dim :]",
            "observations[indices, self.layout.state_dim :]",
            "batched_vec_env",
        ),
        (
            '["terminal_observation"] = observations[index].copy()',
            '["terminal_observation"] = observations[index]',
            "batched_vec_env",
        ),
        ("np_random(self._seeds[index])", "np_random(self._seeds[0])", "batched_vec_env"),
        ("self._reset_options()", "pass", "batched_vec_env"),
        ("task = self.task_distribution.validate_task(task)", "task = np.asarray(task)", "batched_vec_env"),
    ),
    # Tasks and rewards
    *_of(
        "envs",
        "envs/gridworld.py",
        ("np.clip(positions + MOVES[actions], 0, SIZE - 1)", "(positions + MOVES[actions]) % SIZE", "gridworld"),
        ("_MIN_RING <= goal.max()", "_MIN_RING < goal.max()", "gridworld"),
        ("(steps - way + 1)", "(steps - way)", "figures"),
    ),
    *_of(
        "envs",
        "envs/tasks.py",
        ("tasks[rng.integers(len(tasks))].copy()", "tasks[rng.integers(len(tasks))]", "tasks"),
        ('tasks["train"][None]).all(-1)', 'tasks["train"][None]).any(-1)', "tasks"),
        ('{"test", VALIDATION} & tasks.keys()', '{"test"} & tasks.keys()', "tasks"),
        ("permutation(len(first))[:n_tasks]", "permutation(n_tasks)", "tasks"),
    ),
    *_of(
        "envs",
        "envs/locomotion.py",
        ("(low**2, high**2)", "(low, high)", "locomotion"),
        ("p=lengths / lengths.sum()", "p=None", "locomotion"),
        ("np.abs(after[..., :2] - tasks)", "np.abs(before[..., :2] - tasks)", "locomotion"),
        ("0.05 * control_cost(actions)", "0.1 * control_cost(actions)", "locomotion"),
    ),
    # Imagination: whose belief, since when, and where its rewards go
    *_of(
        "ldm",
        "algorithms/ldm/imagination.py",
        ("self._finished.all()", "self._finished.any()", "mixture"),
        ("self._finished |= ended", "self._finished = ended", "mixture"),
        ("states[:, ended] = 0.0", "pass", "mixture"),
        ('== "current" or dones.any()', '== "current" or dones.all()', "mixture"),
        (
            "chosen = choice + th.arange(len(choice), device=self.device) * self.config.n_candidates",
            "chosen = choice",
            "mixture",
        ),
    ),
    *_of(
        "ldm",
        "algorithms/ldm/mixture.py",
        ("(beta - 1.0) / simplex.shape[-1]", "(beta - 1.0) / simplex.shape[0]", "mixture"),
        ("(elsewhere > middle) & (repeated < middle)", "elsewhere > middle", "mixture"),
    ),
    *_of(
        "ldm",
        "algorithms/ldm/mixture_vec_env.py",
        ("if not step.dones[worker]", "if True", "mixture"),
        ("[self.layout.reward_index] = shown\n", "[self.layout.reward_index] = 0.0\n", "mixture"),
        ("self._returns[worker] = 0.0", "pass", "mixture"),
    ),
    *_of(
        "ldm",
        "algorithms/ldm/ldm.py",
        ("self.num_timesteps + timesteps >=", "timesteps >=", "ldm"),
        ("self.num_timesteps + timesteps >=", "self.num_timesteps >=", "ldm"),
    ),
    # Mixreg and variBAD
    *_of(
        "baselines",
        "algorithms/mixreg/mixture.py",
        ("np.maximum(weights, 1.0 - weights)", "weights", "mixreg"),
        ("rng.integers(1, max(n_sequences, 2), n_sequences)", "rng.integers(0, max(n_sequences, 2), n_sequences)", "mixreg"),
        ('"advantages", "returns")', '"advantages")', "mixreg"),
        ("mix(self._collected[name], *arguments)", "mix(self.tensors[name], *arguments)", "mixreg"),
    ),
    *_of(
        "baselines",
        "algorithms/mixreg/mixreg.py",
        ("np.random.default_rng(seed).bit_generator.state", "self._mixreg_rng.bit_generator.state", "mixreg"),
        ("self._mixreg_rng is None or not self._continues_streams", "self._mixreg_rng is None", "mixreg"),
    ),
    *_of(
        "baselines",
        "algorithms/varibad/policies.py",
        ("th.is_grad_enabled() and self.rl_loss_through_encoder", "th.is_grad_enabled()", "varibad"),
        ("return mu(outputs), logvar(outputs)", "return mu(outputs), mu(outputs)", "varibad"),
        ("th.cat(belief, dim=-1)", "th.cat((belief[0], belief[0]), dim=-1)", "varibad"),
    ),
    *_of(
        "baselines",
        "algorithms/varibad/varibad.py",
        ("AgentView(unwrap_vec_normalize(env))", "AgentView(None)", "varibad"),
        ("for name in _SHARED if name in self.__dict__", "for name in ()", "varibad"),
    ),
]


def survives(mutant: Mutant, folder: Path) -> bool:
    """
    :param mutant: the fault
    :param folder: a copy of the repository, which is left as it was
    :return: whether all of its tests pass with the fault
    """
    path = folder / mutant.path
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        tests = [f"tests/{name}" for name in mutant.tests]
        status = subprocess.run([*command, *tests], cwd=folder, env=environment, stdout=subprocess.DEVNULL).returncode
    finally:
        path.write_text(text, encoding="utf-8")
    if status not in (0, 1):
        raise RuntimeError(f"pytest ended with {status}: {mutant}")
    return status == 0


def stale() -> list[Mutant]:
    """:return: mutants whose text does not stand exactly once in their file, or whose tests are not there"""
    return [
        mutant
        for mutant in MUTANTS
        if (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.old) != 1
        or not all((ROOT / "tests" / name).is_file() for name in mutant.tests)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: the command line, that of the process by default
    :return: 1 if a mutant survived or is stale, else 0
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="+", choices=ROOMS, default=ROOMS, help="(default: all)")
    parser.add_argument("--find", default="", help="only mutants with this in their file or text")
    options = parser.parse_args(arguments)
    found = stale()
    for mutant in found:
        print(f"stale     {mutant}")
    with tempfile.TemporaryDirectory() as name:
        for item in COPIED:
            source = ROOT / item
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(name) / item)
        for mutant in MUTANTS:
            if mutant.room in options.room and options.find in str(mutant) and mutant not in found:
                survived = survives(mutant, Path(name))
                print(f"{'SURVIVED' if survived else 'caught  '}  {mutant}", flush=True)
                if survived:
                    found.append(mutant)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
