"""Learning-rate schedules against values worked out by hand from the published formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastmnist.network.schedules import Constant, Cosine, InvScaling, OneCycle, Schedule, Step, parse

ALL = (
    Constant(),
    Step(2, 0.5),
    Cosine(),
    Cosine(final=0.1, warmup_epochs=1.5),
    OneCycle(),
    InvScaling(),
    InvScaling(0.3, n_samples=50),
)


def _whole_run(schedule: Schedule, total_steps: int, steps_per_epoch: int = 4, initial: float = 1.0) -> np.ndarray:
    return schedule.learning_rates(initial, 0, total_steps, total_steps, steps_per_epoch)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_epoch_by_epoch_equals_the_whole_run(schedule):
    whole = _whole_run(schedule, 24, initial=0.3)
    epochs = [schedule.learning_rates(0.3, first, 4, 24, 4) for first in range(0, 24, 4)]
    np.testing.assert_array_equal(np.concatenate(epochs), whole)
    assert whole.dtype == np.float64
    assert whole.shape == (24,)
    assert np.isfinite(whole).all()
    assert (whole >= 0).all()
    assert schedule.learning_rates(0.3, 4, 0, 24, 4).shape == (0,)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_proportional_to_the_initial_rate_and_hashable(schedule):
    np.testing.assert_allclose(_whole_run(schedule, 12, initial=0.02), 0.02 * _whole_run(schedule, 12), rtol=1e-14)
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    assert schedule == dataclasses.replace(schedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.anything = 1


@pytest.mark.parametrize("schedule", ALL, ids=str)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 5])
def test_short_and_overlong_runs_stay_finite(schedule, total_steps):
    rates = schedule.learning_rates(1.0, 0, total_steps + 5, total_steps, 2)
    assert np.isfinite(rates).all()
    assert ((rates >= 0) & (rates <= 1)).all()


def test_constant():
    np.testing.assert_array_equal(_whole_run(Constant(), 5, initial=0.25), np.full(5, 0.25))


def test_step_changes_every_few_epochs():
    # torch's StepLR(step_size=2, gamma=0.1), stepped once an epoch: epochs 0 1 | 2 3 | 4; here 3 steps an epoch.
    rates = _whole_run(Step(2, 0.1), 15, steps_per_epoch=3, initial=0.5)
    np.testing.assert_allclose(rates, [0.5] * 6 + [0.05] * 6 + [0.005] * 3, rtol=1e-14)


def test_cosine_by_hand():
    # torch's CosineAnnealingLR(T_max=4, eta_min=0.2) from 1: 0.2 + 0.4 (1 + cos(pi t / 4)).
    root = np.sqrt(0.5)
    expected = [1.0, 0.2 + 0.4 * (1 + root), 0.6, 0.2 + 0.4 * (1 - root), 0.2]
    np.testing.assert_allclose(Cosine(final=0.2).learning_rates(1.0, 0, 5, 4, 2), expected, rtol=1e-14)
    # Beyond its end it does not rise again.
    np.testing.assert_allclose(Cosine(final=0.2).learning_rates(1.0, 4, 3, 4, 2), [0.2, 0.2, 0.2], rtol=1e-14)


def test_cosine_with_warmup_by_hand():
    # 2 steps of warm-up: 1/2, 2/2; then half a cosine over the other 4: t = 0 ... 3.
    root = np.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, (1 + root) / 2, 0.5, (1 - root) / 2]
    np.testing.assert_allclose(_whole_run(Cosine(warmup_epochs=1), 6, steps_per_epoch=2), expected, rtol=1e-14)


def test_cosine_with_warmup_longer_than_the_run_only_rises():
    np.testing.assert_allclose(_whole_run(Cosine(warmup_epochs=9), 4, steps_per_epoch=2), [0.25, 0.5, 0.75, 1.0])


def test_one_cycle_by_hand():
    # torch's OneCycleLR(max_lr=1, total_steps=11, pct_start=5/11, div_factor=10, final_div_factor=100).
    # It rises from 0.1 to 1 between steps 0 and 5/11 * 11 - 1 = 4, and falls to 0.1 / 100 = 0.001 at step 10.
    root, half = np.sqrt(0.5), np.sqrt(3) / 2
    up = [0.1, 0.55 - 0.45 * root, 0.55, 0.55 + 0.45 * root, 1.0]
    middle, reach = (1 + 0.001) / 2, (1 - 0.001) / 2  # of the falling half cosine, in sixths of pi
    down = [middle + reach * c for c in (half, 0.5, 0, -0.5, -half, -1)]
    schedule = OneCycle(pct_start=5 / 11, div_factor=10, final_div_factor=100)
    np.testing.assert_allclose(_whole_run(schedule, 11), up + down, rtol=1e-13)
    assert _whole_run(schedule, 11).argmax() == 4


def test_one_cycle_with_a_peak_between_steps():
    # Peak at 0.3 * 5 - 1 = 0.5: step 0 is the start, step 1 is 0.5 / 3.5 = 1/7 of the way down to 1 / 25e4.
    rates = _whole_run(OneCycle(), 5)
    end = 1 / 25e4
    assert rates[0] == pytest.approx(1 / 25, rel=1e-14)
    assert rates[1] == pytest.approx(end + (1 - end) * (1 + np.cos(np.pi / 7)) / 2, rel=1e-14)
    assert rates[4] == pytest.approx(end, rel=1e-9)


def test_one_cycle_at_the_limits_of_its_share():
    falling = _whole_run(OneCycle(pct_start=0.0), 6)
    assert (np.diff(falling) < 0).all()
    rising = _whole_run(OneCycle(pct_start=1.0), 6)
    assert (np.diff(rising) > 0).all()
    assert rising[-1] == pytest.approx(1)
    # Peak exactly at step 0, where a rising phase would have no length.
    at_once = _whole_run(OneCycle(pct_start=0.25), 4)
    assert at_once[0] == 1
    assert (np.diff(at_once) < 0).all()


def test_one_cycle_peak_is_max_factor_times_the_initial_rate():
    rates = _whole_run(OneCycle(max_factor=10, pct_start=0.5), 12, initial=0.01)
    assert rates.max() == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.1 / 25)


def test_invscaling_by_step():
    np.testing.assert_allclose(_whole_run(InvScaling(0.5), 4, initial=2.0), 2.0 / np.sqrt([1, 2, 3, 4]), rtol=1e-14)


def test_invscaling_as_scikit_learn_has_it():
    from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

    theirs = SGDOptimizer([], learning_rate_init=0.5, lr_schedule="invscaling", power_t=0.4)
    ours = InvScaling(0.4, n_samples=70)
    for epoch in range(4):  # at the end of an epoch scikit-learn sets the rate from the samples seen
        rates = ours.learning_rates(0.5, 3 * epoch, 3, 12, 3)
        np.testing.assert_allclose(rates, [theirs.learning_rate] * 3, rtol=1e-14)
        theirs.iteration_ends(70 * (epoch + 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", Constant()),
        ("step", Step()),
        ("cosine", Cosine()),
        ("one_cycle", OneCycle()),
        ("invscaling", InvScaling()),
    ],
)
def test_parse_names(name, expected):
    assert parse(name) == expected


def test_parse_passes_objects_through():
    schedule = Cosine(final=0.01)
    assert parse(schedule) is schedule


@pytest.mark.parametrize("value", ["cosin", "", None, 0.1, Cosine, "adaptive"])
def test_parse_teaches(value):
    with pytest.raises(
        ValueError, match=r"schedule must be one of 'constant', 'step', 'cosine'.*Cosine\(.*got"
    ) as error:
        parse(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(step_size_epochs=0), "Step: step_size_epochs must be an integer >= 1; got 0"),
        (lambda: Step(step_size_epochs=1.5), "Step: step_size_epochs must be an integer >= 1; got 1.5"),
        (lambda: Step(gamma=0), r"Step: gamma must be in \(0, 1\]; got 0"),
        (lambda: Step(gamma=float("nan")), r"Step: gamma must be in \(0, 1\]; got nan"),
        (lambda: Cosine(final=-0.1), r"Cosine: final must be in \[0, 1\]; got -0.1"),
        (lambda: Cosine(final="low"), r"Cosine: final must be in \[0, 1\]; got 'low'"),
        (lambda: Cosine(warmup_epochs=-1), "Cosine: warmup_epochs must be a finite number >= 0; got -1"),
        (lambda: Cosine(warmup_epochs=float("inf")), "Cosine: warmup_epochs must be a finite number >= 0; got inf"),
        (lambda: OneCycle(max_factor=0), "OneCycle: max_factor must be a finite number > 0; got 0"),
        (lambda: OneCycle(pct_start=1.1), r"OneCycle: pct_start must be in \[0, 1\]; got 1.1"),
        (lambda: OneCycle(div_factor=0.5), "OneCycle: div_factor must be a finite number >= 1; got 0.5"),
        (lambda: OneCycle(final_div_factor=None), "OneCycle: final_div_factor must be a finite number >= 1; got None"),
        (lambda: InvScaling(power_t=-1), "InvScaling: power_t must be a finite number >= 0; got -1"),
        (lambda: InvScaling(n_samples=0), "InvScaling: n_samples must be an integer >= 1 or None; got 0"),
        (lambda: InvScaling(power_t=True), "InvScaling: power_t must be a finite number >= 0; got True"),
    ],
)
def test_parameters_outside_their_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
