"""The errors of the library; each of them is a `ValueError` too."""


class LaPermError(ValueError):
    """Base class of the errors that only this library raises."""


class UnknownLayerError(LaPermError):
    """A variable whose split into weight vectors nobody has registered."""


class NonFiniteWeightError(LaPermError):
    """A NaN or an infinity in a weight vector that was about to be sorted."""

    def __init__(
        self, message: str = "A weight vector holds a NaN or an infinity: it has no order."
    ) -> None:
        super().__init__(message)


class DatasetUnavailableError(LaPermError):
    """A dataset that is neither on disk nor within reach, or whose files are not what they say."""


class BusyError(LaPermError):
    """A run that another process is training."""


class WeightFileError(LaPermError):
    """A weight file that is damaged, foreign, or does not fit the model."""


def in_short(error: BaseException) -> str:
    """The message of another library's error, which may repeat a whole file, on one line."""
    words = " ".join(str(error).split()) or repr(error)
    return words if len(words) <= 300 else f"{words[:300]} ..."
