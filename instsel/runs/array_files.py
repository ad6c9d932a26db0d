"""Arrays in files that a flag names."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_array(path: str | Path, flag: str) -> np.ndarray:
    """The numbers of a .npy file that a flag names; ValueError naming both where there are none."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise ValueError(f"{flag} {path} is not a regular file")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):  # what NumPy says of a file that is none speaks of loading pickles
        raise ValueError(f"{flag} {path} is not a .npy file of numbers") from None
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror}") from None
