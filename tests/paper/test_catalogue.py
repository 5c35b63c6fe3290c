"""The catalogue: the paper's table and sweeps as tasks that can be run, and their cost."""

from dataclasses import replace

import pytest

from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import catalogue, training
from laperm_lib.paper.experiments.catalogue import ROWS, SWEEPS, variant
from laperm_lib.paper.experiments.profiles import PROFILES


def test_the_rows_are_the_papers():
    """FACTS.md's table, read again."""
    assert {row.experiment: (row.pruned, row.sync_period, row.accuracy) for row in ROWS} == {
        "conv7": (0, 1200, 0.9972),
        "conv2": (0, 1000, 0.7821),
        "conv4": (0, 1000, 0.8917),
        "conv13": (0, 1000, 0.9221),
        "resnet50": (0, 400, 0.9253),
        "resnet50_30": (30, 800, 0.9232),
        "resnet50_50": (50, 800, 0.9202),
        "resnet50_70": (70, 800, 0.9097),
        "f1": (40, 250, 0.8546),
        "f2": (92, 250, 0.7814),
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.experiment)
def test_a_row_is_an_experiment_with_its_settings(row):
    settings = experiments.PUBLISHED[row.experiment]
    assert settings.sync_period == row.sync_period
    assert experiments.PUBLISHED[row.baseline] == replace(settings, sync_period=None)
    if settings.shared_value is None:
        assert settings.pruned == row.pruned / 100


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_goes_through_the_published_value_and_changes_nothing_else(name):
    sweep = SWEEPS[name]
    tasks = catalogue.tasks(name, seeds=(0, 1))
    published = experiments.PUBLISHED[sweep.experiment]
    assert len({task.name for task in tasks}) == 2 * len(sweep.values)
    assert f"{sweep.experiment}-seed0" in {task.name for task in tasks}
    own = getattr(published, sweep.setting)
    assert {replace(t.settings, **{sweep.setting: own}) for t in tasks} == {published}


@pytest.mark.parametrize("name", catalogue.names())
@pytest.mark.parametrize("profile", PROFILES)
def test_every_name_makes_tasks_in_every_profile(name, profile):
    for task in catalogue.tasks(name, profile=profile):
        assert catalogue.steps(task.settings) > 0
        assert catalogue.seconds(task.settings) > 0
        assert variant(task.experiment, task.settings).profile in (profile, "paper")
    with pytest.raises(ValueError, match="Unknown profile 'long'"):
        catalogue.tasks(name, profile="long")


@pytest.mark.parametrize(
    "name", ["f1", "f1_notebook", "f2", "conv7_adam", "conv2", "conv2_initial"]
)
def test_a_task_begins_and_has_as_many_steps_as_the_catalogue_says(name):
    task = catalogue.tasks(name, profile="quick", held_out=[37])[-1]
    begun = training.start(task.settings, seed=task.seed)
    assert len(begun.batches()) == catalogue.steps(task.settings)


def test_the_plan_is_the_whole_table_once():
    planned = catalogue.plan()
    assert len({task.name for task in planned}) == len(planned)
    assert {t.experiment for t in planned} >= {row.experiment for row in ROWS}
    assert {task.settings.held_out for task in planned} == {5000}
    seeds = [task.seed for task in planned if variant("f1", task.settings).profile == "paper"]
    assert max(seeds) == 9
    everything = catalogue.plan("short", seeds=1, held_out=[0], precision=["mixed_bfloat16"])
    assert {task.settings.held_out for task in everything} == {0}
    assert {task.settings.precision for task in everything} == {"mixed_bfloat16"}
    assert {task.seed for task in everything} == {0}


def test_a_plan_without_seeds_is_empty():
    assert catalogue.plan(seeds=0) == []


def test_short_schedules_end_at_the_published_rate():
    for name, published in experiments.PUBLISHED.items():
        short = experiments.short(name)
        last = [each.rate(each.epochs - 1) for each in (short, published)]
        assert last[0] == pytest.approx(last[1])
        if published.shared_value is not None:
            assert short == published
        else:
            assert short.epochs * 10 <= published.epochs + 9
            assert short.rate(0) == published.rate(0)
        if published.dataset == "cifar10":
            rates = [
                sorted({each.rate(e) for e in range(each.epochs)}) for each in (short, published)
            ]
            assert rates[0] == pytest.approx(rates[1])


def test_variants_are_named_by_what_differs():
    published = experiments.PUBLISHED["conv2"]
    assert str(variant("conv2", published)) == "paper"
    assert str(variant("conv2", experiments.short("conv2"))) == "short"
    assert str(variant("conv2", experiments.quick("conv2"))) == "quick"
    beside = replace(published, held_out=5000, precision="mixed_bfloat16")
    assert str(variant("conv2", beside)) == "paper, precision=mixed_bfloat16, held_out=5000"
    assert variant("conv2", beside).is_as_published
    assert not variant("conv2", replace(published, sync_period=100)).is_as_published
    assert not variant("conv2", experiments.quick("conv2")).is_as_published
