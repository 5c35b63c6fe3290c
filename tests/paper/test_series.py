"""Records as the figures show them: grouped by settings, over epochs, over a setting."""

from dataclasses import replace

from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import Evaluation, series
from laperm_lib.paper.experiments.profiles import PROFILES


def made(experiment, seed=0, final=0.5, evaluations=(), **values):
    """A record as a run would leave it, with numbers that no run has measured."""
    return experiments.Record(
        hyperparameters=replace(experiments.PUBLISHED[experiment], **values),
        seed=seed,
        fraction_pruned=0.0,
        evaluations=tuple(evaluations),
        final=final,
        is_permutation=True,
        seconds=1.0,
        data_fingerprint="0",
        experiment=experiment,
        environment={},
    )


def test_runs_are_alike_that_differ_in_seed_alone():
    first, second = made("conv7"), made("conv7", seed=1)
    held_out = made("conv7", held_out=5000)
    others = [made("conv7", sync_period=20), made("conv7", dataset="digits"), made("conv7_adam")]
    found = series.alike([first, held_out, *others, second], "conv7")
    assert found == {"paper": [first, second], "paper, held_out=5000": [held_out]}


def test_the_words_say_no_more_than_tells_the_runs_apart():
    exact = made("conv7", held_out=5000)
    fast = made("conv7", seed=1, held_out=5000, precision="mixed_bfloat16")
    assert series.alike([exact, fast], "conv7") == {"paper": [exact, fast]}


def test_a_seed_in_two_precisions_is_two_lines_of_a_figure():
    exact, fast = (made("conv7", precision=name) for name in ("float32", "mixed_bfloat16"))
    often = made("conv7", sync_period=20, precision="mixed_bfloat16")
    assert series.alike([exact, fast, often], "conv7", "sync_period") == {
        "paper, float32": [exact],
        "paper, mixed_bfloat16": [fast, often],
    }


def test_what_all_have_in_common_is_not_said():
    short = replace(PROFILES["short"]("conv7"), held_out=5000)
    fast = replace(short, precision="mixed_bfloat16")
    runs = [replace(made("conv7"), hyperparameters=settings) for settings in (short, fast)]
    words = list(series.alike([*runs, made("conv7", held_out=5000)], "conv7"))
    assert words == ["short, float32", "short, mixed_bfloat16", "paper"]


def test_a_setting_may_differ_if_it_is_named():
    often, seldom = made("conv7", sync_period=20), made("conv7", held_out=5000, sync_period=100)
    found = series.alike([often, seldom, made("conv7")], "conv7", "sync_period")
    assert found == {"paper": [often, made("conv7")], "paper, held_out=5000": [seldom]}


def test_steps_become_epochs_and_steps_between_synchronisations_are_left_out():
    evaluations = [Evaluation(600, 0, 0.7), Evaluation(1200, 0, 0.8), Evaluation(1250, 50, 0.9)]
    runs = [made("conv7", seed, evaluations=evaluations) for seed in (0, 1)]
    assert series.by_epoch(runs) == {0.5: [0.7, 0.7], 1.0: [0.8, 0.8]}


def test_an_epoch_without_the_images_held_out_is_shorter():
    run = made("conv7", held_out=5000, evaluations=[Evaluation(2200, 0, 0.7)])
    assert series.by_epoch([run]) == {2.0: [0.7]}


def test_final_accuracies_by_a_setting():
    runs = [made("conv7", seed, 0.9 + seed / 100) for seed in (0, 1)]
    runs.append(made("conv7", sync_period=20, final=0.8))
    assert series.by_setting(runs, "sync_period") == {1200: [0.9, 0.91], 20: [0.8]}
