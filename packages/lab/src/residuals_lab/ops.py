"""The table of ops. A row names the arrays of a call and their axes; everything else is read from the op's own files."""

from typing import Any, NamedTuple


class Op(NamedTuple):
    """`name` is the module in every ops package; `arrays` maps each array argument to its axes, in order.

    Axes are letters, and `...` is any number of them: `{"x": "... d", "weight": "d"}`. `static` holds the other
    arguments, in the order in which `fwd` takes them after the arrays, with the values `compare` uses.
    """

    name: str
    arrays: dict[str, str]
    static: dict[str, Any] = {}


OPS = (
    Op("x_sin_x", {"x": "n"}),
    Op("scaled", {"x": "... d", "scale": "d"}),
    Op("rms_norm", {"x": "... d", "weight": "d"}, {"eps": 1e-6}),
)
BY_NAME = {op.name: op for op in OPS}
