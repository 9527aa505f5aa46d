"""The judge of the check: our ops with one fault each, made by machine, and who sees it. `python -m mutants --help`."""
