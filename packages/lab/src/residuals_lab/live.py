def peak(trace): return 0
