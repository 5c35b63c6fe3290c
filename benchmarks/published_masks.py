"""What the published loop makes of F1 and F2 on MNIST with the ten masks of the recorded runs.

python benchmarks/published_masks.py

prints a table: for each mask the best test accuracy right after a synchronisation, beside that of
the library's run from the same initial weights, which is in `pretrained/`. Takes ten minutes.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import published_loop

from laperm_lib.paper import benchmark, evaluation, manifest, records
from laperm_lib.paper.settings import PUBLISHED


def best_of_the_loop(name: str, seed: int) -> float:
    """The best test accuracy right after a synchronisation."""
    settings = PUBLISHED[name]
    start, _ = settings.network.build(seed)
    images = evaluation.images_for(settings)
    accuracies = []
    published_loop.train(
        name,
        start.get_weights(),
        images.x_train,
        images.y_train,
        batch_size=settings.schedule.batch_size,
        learning_rate=settings.schedule.rate,
        sync_period=settings.method.period,
        steps=benchmark.steps(settings),
        seed=seed,
        after_sync=lambda _, model: accuracies.append(
            evaluation.accuracy(model, images.x_test, images.y_test)
        ),
    )
    return max(accuracies)


def _row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    _row("network", "seed", "published loop, %", "library, %")
    _row(*["---"] * 4)
    for name in ("f1", "f2"):
        pairs = []
        for record in records.load(manifest.default_folder() / f"{name}.json"):
            pairs.append((best_of_the_loop(name, record.seed), record.best()))
            loop, library = (f"{100 * accuracy:.2f}" for accuracy in pairs[-1])
            _row(name, str(record.seed), loop, library)
        both = [records.summarise(column) for column in zip(*pairs, strict=True)]
        _row(name, f"{len(pairs)} seeds", *map(str, both))


if __name__ == "__main__":
    main()
