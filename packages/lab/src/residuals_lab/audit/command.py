"""The command `residuals audit`."""

import argparse
from typing import Any

from residuals_lab import options
from residuals_lab.errors import UsageError

DESCRIPTION = """\
Report what a function keeps for its backward: which arrays, how many bytes,
made where, read by what; what is wasted, and what the backward repeats. Nothing
is computed and nothing is allocated: a model of any size is traced on shapes.

TARGET is path/to/file.py:function or package.module:function; it may also be a
torch.nn.Module or a callable tree of arrays. Its arguments follow it, in order:

  --arg 'f32[1024,512]'     an array, differentiated if of floating numbers
  --param 'f32[512,512]'    the same, but a parameter: kept alive by others
  --frozen 'f32[1024,512]'  the same, but not differentiated
  --input x=data.npy        an array from a .npy, .npz or .csv file, by name
  --arg file.py:function    that function's result, such as a tree of arrays
  --arg 0.1                 a Python literal
  --arg eps=1e-5            any of them by name

dtypes: f64 f32 bf16 f16 i64 i32 i16 i8 u8 u32 bool key
"""

EXAMPLES = """\
kinds of arrays in a report:
  input      alive anyway: an argument
  parameter  alive anyway: given as --param, of a module, or closed over
  output     alive anyway: a result of the function
  new        made on the way and kept alive for the backward alone
  view       a part of a larger array, all of which it keeps alive
  hidden     kept outside what the rule saves: in a closure, or as an attribute
             of ctx

examples:
  residuals audit residuals_jax:gelu --arg 'f32[4096,1024]'
  residuals audit model.py:loss --param model.py:init --frozen 'i32[8,1024]' \\
    --top 30 --plot lanes.svg
  residuals audit port.py:block --arg 'f32[512,256]' \\
    --beside original.py:block --arg 'f32[512,256]'

"""


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "audit",
        help=help,
        description=DESCRIPTION,
        epilog=EXAMPLES + options.EXIT_CODES,
        usage="residuals audit TARGET [--arg SPEC ...]\n         [--beside TARGET [--arg SPEC ...]] [options]",
    )
    parser.set_defaults(run=run, targets=[], early=[])
    parser.add_argument(
        "targets", action=options.Target, metavar="TARGET", help="the function, module or callable tree"
    )
    options.add_arguments(parser)
    parser.add_argument(
        "--beside",
        action=options.Target,
        dest="targets",
        metavar="TARGET",
        help="a second target, side by side; arguments after it are its own (default: those of the first)",
    )
    parser.add_argument(
        "--framework",
        action=options.Argument,
        choices=options.FRAMEWORKS,
        default=argparse.SUPPRESS,
        help="the framework of the target before it, where the target does not tell",
    )
    parser.add_argument(
        "--concrete", action="store_true", help="compute the forward, for code whose path depends on numbers"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where arrays are made, and whose kernels run")
    parser.add_argument("--top", type=options.size, default=12, metavar="N", help="rows of a table (default: 12)")
    parser.add_argument("--by", choices=("source", "module", "kind"), help="sum up instead of listing arrays")
    parser.add_argument(
        "--prove", action="store_true", help="take the advice: trace it all again with the ops in place"
    )
    parser.add_argument("--compiled", action="store_true", help="also what is kept after compilation")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--html", type=options.path, metavar="FILE", help="also write the report as a page")
    options.add_plot(parser, "the lanes")


def run(arguments: argparse.Namespace) -> int:
    """Audit one target or two, print, and return the exit code."""
    from residuals_lab import show

    (first, own), *others = arguments.targets
    if len(others) > 1:
        raise UsageError("--beside: expected it once")
    options.check_files(arguments, [target for target, _ in arguments.targets])
    with show.progress("importing"):
        from residuals_lab.audit import document, page, table, titled
        from residuals_lab.audit.target import audit_target
        from residuals_lab.targets.arguments import Argument

    audits = []
    specs: list[Argument] = []
    for target, given in [(first, [*arguments.early, *own]), *others]:
        specs = [Argument(how, text) for how, text in given if how != "framework"] or specs
        framework, *more = [text for how, text in given if how == "framework"] or [None]
        if more:
            raise UsageError(f"--framework: expected it once for {target}, got {', '.join([str(framework), *more])}")
        with show.progress(f"tracing {target}"):
            how = {"compiled": arguments.compiled, "is_proved": arguments.prove}
            audits.append(audit_target(target, specs, framework, arguments.concrete, device=arguments.device, **how))
    if arguments.plot:
        from residuals_lab import lanes

        pictures = {title: audit.picture for title, audit in titled(audits).items()}
        lanes.draw(pictures, arguments.plot, **options.drawing(arguments))
        show.wrote(arguments.plot)
    if arguments.html:
        arguments.html.write_text(page.page(audits), encoding="utf-8")
        show.wrote(arguments.html)
    if arguments.json:
        show.print_json(document.documents(audits, arguments.by))
    else:
        table.show_all(audits, show.console(), arguments.top, arguments.by, is_drawn=bool(arguments.plot))
    return 0
