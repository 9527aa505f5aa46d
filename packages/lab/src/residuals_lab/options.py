"""The longer texts of --help, in lines of at most 80 columns."""

EXIT_CODES = """\
exit codes: 0 fine; 1 a check failed; 2 wrong usage or input; 3 no framework"""

AUDIT = """\
Report what a function keeps for its backward: which arrays, how many bytes,
made where, read by what; what is wasted, and what is computed again. Nothing is
computed and nothing is allocated: a model of any size is traced on shapes.

TARGET is path/to/file.py:function or package.module:function; it may also be a
torch.nn.Module or a callable tree of arrays. Its arguments follow it, in order:

  --arg 'f32[1024,512]'     an array, differentiated if of floating numbers
  --param 'f32[512,512]'    the same, but a parameter: kept alive by others
  --frozen 'f32[1024,512]'  the same, but not differentiated
  --input x=data.npy        an array from a .npy, .npz or .csv file, by name
  --arg file.py:function    what that function gives: a tree of arrays, say
  --arg 0.1                 a Python literal
  --arg eps=1e-5            any of them by name

dtypes: f64 f32 bf16 f16 i64 i32 i16 i8 u8 u32 bool key
"""

AUDIT_EXAMPLES = """\
kinds of arrays in a report:
  input      alive anyway: an argument
  parameter  alive anyway: of --param, of a module, or closed over
  output     alive anyway: a result of the function
  new        made on the way and kept alive for the backward alone
  view       a part of a larger array, all of which it keeps alive
  hidden     kept past what a rule saves: closed over, or hung on its ctx

examples:
  residuals audit residuals_jax:gelu --arg 'f32[4096,1024]'
  residuals audit model.py:loss --param model.py:init --frozen 'i32[8,1024]' \\
    --top 30 --plot lanes.svg
  residuals audit port.py:block --arg 'f32[512,256]' \\
    --beside original.py:block --arg 'f32[512,256]'

"""

LOCK = """\
Write down what targets keep for their backward, in residuals.lock, for review
in a diff; and fail where it grows.

  residuals lock write TARGET --arg SPEC ...
      add a target, or update it; arguments are those of residuals audit
  residuals lock write
      look at all targets of the file again, and accept what they keep; with a
      TARGET of the file and no arguments, at this one
  residuals lock check
      fail if bytes grew or an array appeared: say which, and from where
"""
