"""The gradient is wrong where the cotangent is not contiguous.

The backward walks through the incoming gradient with the strides of something else. Behind a `cat` it is a slice of a
wider array, behind a `sum` it is expanded, with strides of 0, behind a transpose it is transposed. `gradcheck` and
`opcheck` give contiguous ones only.

Call `g.contiguous()` before a kernel, a view or `as_strided` reads it.
"""

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        flat = torch.as_strided(g, (g.numel(),), (1,), g.storage_offset())  # wrong
        # right: flat = g.reshape(-1)
        return 3 * flat.view(g.shape)

def fn(x):
    return Triple.apply(x)
""",
    "jax": "JAX's arrays have no strides.",
}


def find(subject: Subject) -> Finding | None:
    for layout, lay_out in subject.calls.LAYOUTS.items():
        for k in range(len(subject.gs)):
            with subject.guarded():
                outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
                gs = subject.cotangents(outs, subject.gs)
                made = lay_out(gs[k])
                if made is None or not subject.has_gradient[k]:
                    continue
                expected = list(gs)
                expected[k] = subject.calls.like(made, subject.calls.to_numpy(made))
                right = subject.ran(outs, pull(expected)).grads
            gs[k] = made
            try:
                grads = subject.run(cotangents=gs).grads
                wrong, got = subject.first_apart(grads, right, beside=subject.base.grads), ""
            except Raised as problem:
                wrong, got = None, str(problem)
            if wrong or got:
                return Finding(
                    "stride-of-cotangent",
                    f"the gradient {'raises' if got else 'is wrong'} where the cotangent is not contiguous: {layout}",
                    f"{wrong.is_expected}, as for a contiguous copy" if wrong else "as for a contiguous copy",
                    got or (wrong.is_got if wrong else ""),
                    "behind cat, sum, expand and transposes it has such strides; a contiguous one is right",
                    "make it contiguous where a kernel, view or as_strided reads it: g.contiguous()",
                )
    return None
