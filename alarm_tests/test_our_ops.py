"""Our ops pass at each of their samples."""

from typing import Any

import numpy as np
import pytest

from alarms import ALL
from residuals_lab import frameworks
from residuals_lab.audit import frozen
from residuals_lab.check import check
from residuals_lab.ops import OPS
from residuals_lab.ops.call import samples

CASES = [(name, op.name, sample) for name in frameworks.NAMES for op in OPS for sample in samples(op.name)]


@pytest.mark.parametrize(("framework", "op", "sample"), CASES)
@ALL
def test_an_op_of_ours_is_left_alone(framework: str, op: str, sample: str, dtype: str, seed: int) -> None:
    adapter, call = frameworks.load(framework), samples(op)[sample]
    names = [*call.arrays, *call.constants]
    with adapter.precision(dtype):
        args = [adapter.array(a, dtype) for a in call.arrays.values()]
        wide = (a.astype(dtype) if a.dtype.kind == "f" else a for a in call.constants.values())
        args += [frozen(adapter.constant(np.asarray(a))) for a in wide]
        public = adapter.public(op)

        def fn(*given: Any) -> Any:
            return public(**dict(zip(names, given, strict=True)), **call.static)

        found = check(fn, *args, framework=framework, quick=True, seed=seed)
    assert found.passed, str(found)
