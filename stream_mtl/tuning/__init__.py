"""Search of settings by backtests, judged forward in time.

    space        which settings may take which values
    objective    what a fold is judged by
    trial_fold   one configuration, folded from mark to mark
    study        proposes values, remembers what came of them (Optuna; an extra)
    comparison   is a difference more than noise?
    search       all of it: trials on the tuning span, the best of them and the given configuration on the rest

The stream is read once, in its order. Trials see its first part; what is recommended has to prove itself on
the later part, which no trial has seen: the best of many trials is partly the luckiest of them.
"""
