"""The page to play with: what it holds, and what a browser makes of it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from sb3_ldm import LDM, RL2
from sb3_ldm.demo import LETTERS, belief_levels, demo_data, demo_page
from sb3_ldm.demo import main as demo
from sb3_ldm.envs import gridworld, make_meta_vec_env
from sb3_ldm.evaluation import evaluate_meta, record_meta
from sb3_ldm.zoo import pretrained
from sb3_ldm.zoo.pretrained import save_pretrained
from sb3_ldm.zoo.trained import TrainedAgent

ENV = "GridNavi-v0"
HORIZON, EPISODES = 30, 4
MINUS = "\N{MINUS SIGN}"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def agents() -> dict[str, Any]:
    """Small agents that have learned nothing, and so wander about."""
    small: dict[str, Any] = {"policy_kwargs": {"lstm_hidden_size": 8}, "seed": 0, "device": "cpu"}
    # Without dropout a belief is no mean over many masks.
    network = {"encoder_hidden_size": 8, "decoder_layers": [8]}
    own: dict[str, Any] = {"mixture_ratio": 0.25, "dropout_rate": 0.0, "vae_buffer_size": 50, "vae_kwargs": network}
    return {
        "ldm": LDM("MlpLstmPolicy", make_meta_vec_env(ENV, n_envs=4, seed=0), **own, **small),
        "rl2": RL2("MlpLstmPolicy", make_meta_vec_env(ENV, n_envs=4, seed=0), **small),
    }


@pytest.fixture(scope="module")
def data(agents) -> dict[str, Any]:
    return demo_data(agents, seed=1)


@pytest.fixture(scope="module")
def most_likely(agents) -> dict[str, Any]:
    return demo_data(agents, deterministic=True)


@pytest.fixture(scope="module")
def file(agents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.html"
    path.write_text(demo_page(agents, seed=1, about="Two agents."), encoding="utf-8")
    return path


def told_paths(data: dict[str, Any], agent: int) -> np.ndarray:
    """Cells ``(45, N, H + 1)``."""
    paths = [[LETTERS.index(letter) for letter in path] for path in data["agents"][agent]["paths"]]
    return np.array(paths).reshape(-1, EPISODES, HORIZON + 1)


def replayed(agent: Any, goal: np.ndarray) -> list[list[int]]:
    """Cells of each episode in a plain environment, most likely actions."""
    env = gym.make(ENV)
    obs, _ = env.reset(options={"task": goal})
    paths: list[list[int]] = []
    state, start, ended = None, np.ones(1, dtype=bool), False
    while not ended:
        paths.append([0])
        for _ in range(HORIZON):
            action, state = agent.predict(obs[None], state=state, episode_start=start, deterministic=True)
            before = gridworld.cells()[paths[-1][-1]]
            paths[-1].append(int(gridworld.cell_index(gridworld.move(before, action[0]))))
            obs, _, terminated, truncated, _ = env.step(action[0])
            start, ended = np.zeros(1, dtype=bool), terminated or truncated
    return paths


@pytest.mark.parametrize("number", [0, 1])
def test_paths_are_those_of_a_plain_replay(agents, most_likely, number):
    agent, paths = list(agents.values())[number], told_paths(most_likely, number)
    for index in (0, 20, 44):
        goal = gridworld.cells()[most_likely["goals"][index]["cell"]]
        assert replayed(agent, goal) == paths[index].tolist()


def test_all_45_goals_are_told_with_their_kind_and_best_return(data):
    tasks = gridworld.grid_navi_tasks()
    assert (data["size"], data["horizon"], data["episodes"]) == (7, HORIZON, EPISODES)
    for split, n_goals in (("train", 18), ("test", 27)):
        cells = [one["cell"] for one in data["goals"] if one["split"] == split]
        assert len(cells) == n_goals and sorted(cells) == sorted(gridworld.cell_index(tasks.tasks(split)).tolist())
    assert not {0, 1, 7, 8} & {one["cell"] for one in data["goals"]}
    (far,) = [one["best"] for one in data["goals"] if one["cell"] == 48]
    assert far == pytest.approx(19 - 1.1)


@pytest.mark.parametrize("number", [0, 1])
def test_sampled_paths_return_what_evaluation_returns(agents, data, number):
    cells = np.array([one["cell"] for one in data["goals"]])
    env = make_meta_vec_env(ENV, len(cells), seed=1)
    result = evaluate_meta(list(agents.values())[number], env, tasks=gridworld.cells()[cells], seed=1)
    on_goal = told_paths(data, number)[..., 1:] == cells[:, None, None]
    np.testing.assert_allclose(np.where(on_goal, 1.0, -0.1).sum(-1), result.returns, atol=1e-9)
    assert (on_goal.any(-1) == result.successes).all()


def test_beliefs_are_those_of_the_decoder_after_each_step(agents, data):
    goals = gridworld.cells()[[one["cell"] for one in data["goals"]]]
    env = make_meta_vec_env(ENV, len(goals), seed=1)
    batch = record_meta(agents["ldm"], env, goals, seed=1)
    expected = agents["ldm"].belief_maps(batch, gridworld.grid_probes(), np.array([0, 7, 120]))
    for index in (3, 30):
        levels = np.array([LETTERS.index(letter) for letter in data["agents"][0]["beliefs"][index]]).reshape(121, 49)
        np.testing.assert_array_equal(levels[[0, 7, 120]], belief_levels(expected[index]))
    assert "beliefs" not in data["agents"][1]


def test_belief_levels_are_roots_between_both_rewards():
    assert belief_levels(np.array([-0.5, -0.1, 0.175, 1.0, 1.2])).tolist() == [0, 0, 32, 63, 63]


def test_the_same_seed_makes_the_same_page(agents, data):
    assert demo_data(agents, seed=1) == data
    assert demo_data(agents, seed=2)["agents"][0]["paths"] != data["agents"][0]["paths"]


def test_the_page_is_one_small_file_without_references(file):
    page = file.read_text(encoding="utf-8")
    assert len(page.encode()) < 500_000
    assert "://" not in page and not re.search(r"\b(src|href)\s*=|@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\b", page)
    assert "default-src 'none'" in page and "__DATA__" not in page


def test_the_command_writes_the_pretrained_agents_page(agents, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "pretrained")
    page = tmp_path / "pages" / "page.html"
    with pytest.raises(ValueError, match="algo='ldm', env_id='GridNavi-v0'"):
        demo(["-o", str(page)])
    assert not page.exists()
    for seed, (algo, agent) in enumerate(agents.items(), start=7):
        agent.save(tmp_path / algo)
        told = {"algo": algo, "env": ENV, "seed": seed, "timesteps": 12_000, "chosen_from": {"seeds": {"7": 1.0, "8": 2.0}}}
        save_pretrained(TrainedAgent(tmp_path / f"{algo}.zip", None, {}), told)
    demo(["-o", str(page), "--seed", "1"])
    assert f"Wrote {page}" in capsys.readouterr().out
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    told = json.loads(found[1])
    assert told["agents"] == demo_data(agents, seed=1)["agents"]
    assert "LDM for 12,000 steps (seed 7, the worse of both in the middle of 2)" in told["about"]
    assert "sampled (seed 1)" in told["about"]
    demo(["-o", str(page), "--deterministic"])
    assert "most likely actions" in page.read_text(encoding="utf-8")


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path: install Debian's chromium, or another one")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has no sandbox
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, file, request) -> Iterator[Page]:
    """The page, at phone width where asked for; anything that goes wrong in it fails the test."""
    options = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    page = browser.new_page(**options)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda asked: None if asked.url.startswith("file:") else problems.append(asked.url))
    page.goto(file.as_uri())
    yield page
    page.close()
    assert problems == []


def cell(page: Page, x: int, y: int) -> Any:
    return page.get_by_role("button", name=f"x {x}, y {y}: ")


def returns_shown(page: Page) -> list[list[str]]:
    """Of each agent, as a screen reader says them."""
    return [
        [str(item.get_attribute("aria-label")) for item in board.locator("li").all()] for board in page.locator(".board").all()
    ]


def returns_told(data: dict[str, Any], x: int, y: int) -> list[list[str]]:
    told = []
    for number in range(2):
        (index,) = [i for i, one in enumerate(data["goals"]) if one["cell"] == 7 * x + y]
        on_goal = told_paths(data, number)[index, :, 1:] == 7 * x + y
        values = [f"{value:.1f}".replace("-", MINUS) for value in np.where(on_goal, 1.0, -0.1).sum(-1)]
        marks = [", reached" if reached else "" for reached in on_goal.any(-1)]
        told.append([f"Episode {k + 1}: {values[k]}{marks[k]}" for k in range(EPISODES)])
    return told


def test_a_click_hides_the_goal_and_plays_until_the_verdict(opened, data):
    toggle, status = opened.locator("#toggle"), opened.get_by_role("status")
    expect(toggle).to_be_disabled()
    opened.get_by_label("Speed").select_option("32")
    cell(opened, 2, 1).click()
    expect(cell(opened, 2, 1)).to_have_attribute("aria-pressed", "true")
    expect(status).to_contain_text("The goal is hidden at x 2, y 1, a training goal.")
    expect(toggle).to_have_text("Pause")
    expect(opened.locator("#clock")).to_have_text(re.compile(r"step ([3-9]|\d\d) of 30"))
    toggle.click()
    expect(toggle).to_have_text("Play")
    frame = opened.locator("#time").input_value()
    opened.wait_for_timeout(120)
    assert opened.locator("#time").input_value() == frame
    opened.locator("#time").fill("110")
    toggle.click()
    expect(toggle).to_have_text("Replay", timeout=10_000)
    expect(status).to_contain_text("The last episode, training goal: LDM")
    assert "RL²" in status.inner_text() and "best possible return is 27.8" in status.inner_text()
    assert returns_shown(opened) == returns_told(data, 2, 1)
    toggle.click()
    expect(toggle).to_have_text("Pause")


def test_every_goal_ends_with_what_was_recorded(opened, data):
    opened.emulate_media(reduced_motion="reduce")
    for x, y in ((2, 0), (6, 6), (4, 3), (0, 5)):
        cell(opened, x, y).click()
        opened.locator("#time").fill("123")
        assert returns_shown(opened) == returns_told(data, x, y)
    rows = opened.locator("tbody tr").all()
    for row, split, n_goals in zip(rows, ("train", "test"), (18, 27), strict=True):
        cells = np.array([one["cell"] for one in data["goals"]])
        of_split = np.array([one["split"] == split for one in data["goals"]])
        for number, told in enumerate(row.locator("td").all()):
            reached = (told_paths(data, number)[:, -1] == cells[:, None]).any(-1)
            assert told.inner_text() == f"{(reached & of_split).sum()} of {n_goals}"


def test_steps_are_made_one_by_one_where_motion_is_reduced(opened, data):
    opened.emulate_media(reduced_motion="reduce")
    cell(opened, 4, 4).click()
    expect(opened.locator("#toggle")).to_have_text("Play")
    clock, step = opened.locator("#clock"), opened.get_by_role("button", name="Step")
    expect(clock).to_have_text("Episode 1 of 4, step 0 of 30")
    for _ in range(3):
        step.click()
    expect(clock).to_have_text("Episode 1 of 4, step 3 of 30")
    (index,) = [i for i, one in enumerate(data["goals"]) if one["cell"] == 32]
    x, y = divmod(int(told_paths(data, 0)[index, 0, 3]), 7)
    expect(opened.get_by_role("status")).to_contain_text(f"Step 3: LDM at x {x}, y {y}, RL²")
    expect(opened.get_by_role("img", name=f"LDM at x {x}, y {y}, goal at x 4, y 4")).to_be_visible()
    shade = opened.locator(".board").first.locator(".belief").nth(11).get_attribute("fill-opacity")
    level = LETTERS.index(data["agents"][0]["beliefs"][index][3 * 49 + 11])
    assert float(str(shade)) == pytest.approx(level / 63, abs=0.006)
    opened.get_by_role("button", name="Restart").click()
    expect(clock).to_have_text("Episode 1 of 4, step 0 of 30")


def test_the_keyboard_does_all_that_a_mouse_does(opened):
    opened.emulate_media(reduced_motion="reduce")
    opened.keyboard.press("Tab")
    focused = opened.locator(":focus")
    expect(focused).to_have_attribute("aria-label", "x 0, y 3: unseen goal")
    for key, label in (
        ("ArrowUp", "x 0, y 4: unseen goal"),
        ("ArrowRight", "x 1, y 4: unseen goal"),
        ("ArrowLeft", "x 0, y 4: unseen goal"),
        ("ArrowLeft", "x 0, y 4: unseen goal"),
        ("ArrowDown", "x 0, y 3: unseen goal"),
        ("ArrowDown", "x 0, y 2: training goal"),
        ("ArrowDown", "x 0, y 2: training goal"),  # no goal can be below
    ):
        opened.keyboard.press(key)
        expect(focused).to_have_attribute("aria-label", label)
    assert focused.evaluate("cell => getComputedStyle(cell).outlineStyle") == "solid"
    opened.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-pressed", "true")
    for _ in range(3):  # the random goal, Play, Step: one stop for the whole grid
        opened.keyboard.press("Tab")
    expect(focused).to_have_text("Step")
    opened.keyboard.press("Space")
    expect(opened.locator("#clock")).to_have_text("Episode 1 of 4, step 1 of 30")
    for _ in range(3):
        opened.keyboard.press("Tab")
    expect(focused).to_have_id("time")
    opened.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("aria-valuetext", "Episode 1 of 4, step 2 of 30")


@pytest.mark.parametrize(
    "opened",
    [{"viewport": {"width": 360, "height": 740}, "color_scheme": scheme} for scheme in ("light", "dark")],
    indirect=True,
    ids=["light", "dark"],
)
def test_it_fits_a_phone(opened):
    opened.emulate_media(reduced_motion="reduce")
    for x, y in ((2, 0), (3, 3), (6, 1)):
        cell(opened, x, y).click()
        opened.locator("#time").fill("123")
        for width in (320, 360):
            opened.set_viewport_size({"width": width, "height": 740})
            assert opened.evaluate("document.documentElement.scrollWidth") == width
        # Returns have room even where they are as wide as can be.
        opened.evaluate("for (const one of document.querySelectorAll('.episodes li')) one.lastChild.textContent = '28.8'")
        too_wide = "[...document.querySelectorAll('.episodes li')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert opened.evaluate(too_wide) == 0
    for name in ("Step", "Restart", "x 2, y 0: training goal"):
        box = opened.get_by_role("button", name=name).bounding_box()
        assert box is not None and box["height"] >= 36 and box["width"] >= 36


def test_an_unseen_goal_is_chosen_at_random(opened):
    opened.get_by_role("button", name="Random unseen goal").click()
    expect(opened.get_by_role("status")).to_contain_text("an unseen goal")
    expect(opened.locator("[aria-pressed=true]")).to_have_count(1)
