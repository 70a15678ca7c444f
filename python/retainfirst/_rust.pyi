from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLUMNS",
    "RustError",
    "__version__",
    "baseline_",
    "combine",
    "combine_",
    "compare_cosines",
    "dot",
    "dot_sign",
    "elementwise_",
    "exhaustive",
    "geometry",
    "get_num_threads",
    "guard_",
    "instruction_set",
    "linear_",
    "moments",
    "set_num_threads",
]

COLUMNS: tuple[str, ...]
__version__: str

class RustError(ValueError): ...

def moments(dtype: str, forget: list[int], retain: list[int], lengths: list[int]) -> NDArray[np.float64]: ...
def elementwise_(
    combiner: str,
    dtype: str,
    forget: list[int],
    retain: list[int],
    lengths: list[int],
    alpha: float,
    gamma: float,
    measure: bool = True,
) -> NDArray[np.float64]: ...
def linear_(
    dtype: str,
    forget: list[int],
    retain: list[int],
    lengths: list[int],
    c_retain: list[float],
    c_forget: list[float],
    toward_retain: bool = False,
    measure: bool = True,
) -> NDArray[np.float64]: ...
def guard_(
    dtype: str,
    before: list[int],
    after: list[int],
    lengths: list[int],
    signs: list[int],
    zeros: bool,
    forget: list[int],
    retain: list[int],
) -> tuple[NDArray[np.float64], list[int]]: ...
def baseline_(
    dtype: str, forget: list[int], retain: list[int], lengths: list[int], alpha: float, gamma: float
) -> None: ...
def combine(
    combiner: str,
    forget: NDArray[Any],
    retain: NDArray[Any],
    alpha: float,
    gamma: float,
    groups: list[tuple[int, int]],
) -> tuple[NDArray[Any], NDArray[np.float64]]: ...
def combine_(
    combiner: str,
    forget: NDArray[Any],
    retain: NDArray[Any],
    alpha: float,
    gamma: float,
    groups: list[tuple[int, int]],
) -> NDArray[np.float64]: ...
def geometry(
    forget: NDArray[Any], retain: NDArray[Any], update: NDArray[Any], groups: list[tuple[int, int]]
) -> NDArray[np.float64]: ...
def dot(update: NDArray[Any], retain: NDArray[Any]) -> bytes: ...
def dot_sign(update: NDArray[Any], retain: NDArray[Any]) -> int: ...
def compare_cosines(first: NDArray[Any], second: NDArray[Any], retain: NDArray[Any]) -> int: ...
def exhaustive(
    combiner: str, dtype: str, alpha: float, gamma: float, start: int, stop: int
) -> tuple[int, int, tuple[int, int, int, int, str] | None]: ...
def instruction_set() -> str: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
