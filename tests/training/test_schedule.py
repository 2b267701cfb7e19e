"""1442 examples, 10 epochs, 6 % warm-up: docs/explanation/method.md#learning-rate-and-early-stopping"""

import pytest
from test_loop import examples_of

from cotray.config import TrainingConfig
from cotray.records import TrainExample
from cotray.training.batches import StudentBatches
from cotray.training.schedule import build_schedule


@pytest.mark.parametrize(
    ("batch_size", "steps_per_epoch", "num_steps", "num_warmup_steps"),
    [(16, 91, 910, 54), (8, 181, 1810, 108)],
)
def test_steps_of_the_released_script(batch_size, steps_per_epoch, num_steps, num_warmup_steps):
    examples = [TrainExample(str(index), "factual", "q", "a") for index in range(1442)]
    batches = StudentBatches(examples_of("random:llama", examples), batch_size=batch_size, alpha=0.5, seed=0)
    schedule = build_schedule(TrainingConfig(), num_steps_per_epoch=batches.num_steps_per_epoch)
    assert batches.num_steps_per_epoch == steps_per_epoch
    assert (schedule.num_steps, schedule.num_warmup_steps) == (num_steps, num_warmup_steps)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (27, 1.5e-5), (54, 3e-5), (482, 1.5e-5), (910, 0.0)])
def test_rate_warms_up_linearly_and_decays_linearly_to_zero(step, rate):
    schedule = build_schedule(TrainingConfig(), num_steps_per_epoch=91)
    assert schedule.learning_rate(step) == pytest.approx(rate, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    schedule = build_schedule(TrainingConfig(warmup_fraction=0, epochs=1), num_steps_per_epoch=4)
    assert [schedule.learning_rate(step) / 3e-5 for step in range(5)] == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0]
    )
