"""What a sweep tries, and what it takes."""

from __future__ import annotations

import msgspec
import pytest

from components.stepping import EVENTS
from components.sweep import Trial, best, grid
from components.sweep.search import MOST_TRIALS, SCORE
from components.sweep.step import run_choose
from components.train import ModelConfig, TrainConfig
from slipway.errors import DataError, SettingsError

BASE = TrainConfig(model=ModelConfig(kind="boosting", rounds=12))


def trial(leaves: int, score: float) -> Trial:
    config = TrainConfig(model=ModelConfig(kind="boosting", leaves=leaves))
    return Trial(config=config, metrics={SCORE: score}, rounds=10)


def test_every_combination_in_a_fixed_order_on_top_of_the_base() -> None:
    found = grid(BASE, {"leaves": [31, 15], "learning_rate": [0.1, 0.2]})
    assert found == grid(BASE, {"learning_rate": [0.1, 0.2], "leaves": [31, 15]})
    pairs = [(config.model.learning_rate, config.model.leaves) for config in found]
    assert pairs == [(0.1, 31), (0.1, 15), (0.2, 31), (0.2, 15)]
    assert {config.model.rounds for config in found} == {12}
    assert {config.split for config in found} == {BASE.split}


def test_no_choice_is_the_base_alone() -> None:
    assert grid(BASE, {}) == [BASE]


def test_more_than_the_limit_and_none_at_all_are_refused() -> None:
    assert len(grid(BASE, {"leaves": list(range(2, MOST_TRIALS + 2))})) == MOST_TRIALS
    with pytest.raises(SettingsError, match="make 65 trials"):
        grid(BASE, {"leaves": list(range(2, MOST_TRIALS + 3))})
    with pytest.raises(SettingsError, match="make 0 trials"):
        grid(BASE, {"leaves": [], "rounds": [1, 2]})


def test_too_many_are_refused_before_they_are_made() -> None:
    many = list(range(1, 10_001))
    with pytest.raises(SettingsError, match="make 100000000 trials"):
        grid(BASE, {"leaves": many, "rounds": many})


def test_fields_and_values_that_no_model_has_are_named() -> None:
    with pytest.raises(SettingsError, match="a model has no depth, height") as caught:
        grid(BASE, {"height": [1], "depth": [1], "leaves": [3]})
    assert "leaves" in str(caught.value.fix)
    with pytest.raises(SettingsError, match="a choice does not fit"):
        grid(BASE, {"leaves": ["many"]})


def test_the_least_log_loss_wins_and_of_equals_the_first() -> None:
    assert best([trial(3, 0.5), trial(7, 0.4), trial(9, 0.4)]).config.model.leaves == 7
    with pytest.raises(DataError, match="no trial came to an end"):
        best([])


def test_the_step_answers_with_the_configuration_that_train_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from components.train.step import read_config

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.delenv(EVENTS, raising=False)
    texts = [msgspec.json.encode(item).decode() for item in (trial(3, 0.5), trial(7, 0.4))]
    assert read_config(run_choose(texts)).model.leaves == 7
