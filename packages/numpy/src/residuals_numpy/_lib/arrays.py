"""Names for the types of arrays that the ops take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bits = NDArray[np.uint8]
Key = NDArray[np.uint32]  # (2,)
Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Samples = dict[str, dict[str, Any]]  # name of a call -> its arguments by name
