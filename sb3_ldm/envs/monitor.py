"""A file with a row for each meta-episode, in the form that SB3's plots read."""

import csv
import io
import json
import time
from collections.abc import Sequence
from inspect import getmembers
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn, VecEnvWrapper

from sb3_ldm.files import append_lines, finished_lines, replacing

MONITOR_FILE = Monitor.EXT


class MetaMonitor(VecEnvWrapper):
    """
    Writes ``monitor.csv`` as SB3's ``Monitor`` and ``VecMonitor`` do, one row a meta-episode of any worker: its return ``r``,
    its length ``l``, the seconds ``t``, after how many ``timesteps`` of all workers it ended, and ``is_success`` of its last
    episode where the environment tells. It takes the place of another file of that name, unless it goes on
    (:meth:`continue_from`). Copies of it write nothing.

    :param venv: environments that are monitored, as those of :func:`~sb3_ldm.envs.factory.make_meta_vec_env` are
    :param folder: where the file goes
    """

    def __init__(self, venv: VecEnv, folder: str | Path):
        super().__init__(venv)
        self.path: Path | None = Path(folder) / MONITOR_FILE
        self._timesteps = 0
        self._t_start = time.time()
        self._columns: Sequence[str] | None = None  #: None before there is a header

    def continue_from(self, timesteps: int) -> None:
        """
        Keep the rows that the file has, but for those that are to be written again.

        :param timesteps: of all workers, up to which rows are kept
        :raises ValueError: if the file is not one that this class wrote
        """
        self._timesteps = timesteps
        if self.path is None or not self.path.is_file():
            return
        try:
            about, header, *rows = finished_lines(self.path)
            self._t_start = float(json.loads(about.removeprefix("#"))["t_start"])
            self._columns = header.strip().split(",")
            place = self._columns.index("timesteps")
            kept = [row for row in rows if int(row.split(",")[place]) <= timesteps]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged or of another program, remove it to go on without: {error}") from error
        with replacing(self.path) as partial:
            partial.write_bytes("".join([about, header, *kept]).encode())

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self._timesteps += self.num_envs
        if self.path is not None and dones.any():
            self._write([infos[index] for index in np.flatnonzero(dones)])
        return obs, rewards, dones, infos

    def _write(self, infos: Sequence[dict[str, Any]]) -> None:
        assert self.path is not None
        header = ""
        if self._columns is None:
            self._columns = ["r", "l", "t", "timesteps", *(["is_success"] if "is_success" in infos[0] else [])]
            spec = self.get_attr("spec", 0)[0]
            about = {"t_start": self._t_start, "env_id": None if spec is None else spec.id}
            header = f"#{json.dumps(about)}\n{','.join(self._columns)}\n"
            self.path.unlink(missing_ok=True)
        rows = io.StringIO(newline="")
        writer = csv.DictWriter(rows, self._columns, extrasaction="ignore", lineterminator="\n")
        elapsed = round(time.time() - self._t_start, 6)
        for info in infos:
            success = {"is_success": int(info["is_success"])} if "is_success" in info else {}
            writer.writerow({**info["episode"], "t": elapsed, "timesteps": self._timesteps, **success})
        append_lines(self.path, rows.getvalue(), header, flush=False)

    def __getstate__(self) -> dict[str, Any]:
        # As VecNormalize does it; class attributes cannot be pickled.
        return {**{name: value for name, value in self.__dict__.items() if name != "class_attributes"}, "path": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.class_attributes = dict(getmembers(type(self)))


def monitor_of(env: VecEnv) -> MetaMonitor | None:
    """
    :param env: vectorised environments
    :return: what writes their ``monitor.csv``, None if nothing does
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, MetaMonitor):
            return env
        env = env.venv
    return None
