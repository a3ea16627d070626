"""Conformance: proves that a backend takes the same step as isostep's reference, rule by rule.

=================  =================================================================================
``cases``          every rule and piece of the registry with hyperparameters from their domains
``scenarios``      parameters, gradients and extra inputs: ten decades, thresholds, NaN, denormals
``exact``          the truth: a rule's program evaluated in a wider format, with error bounds
``budget``         how far a backend may be from it
``runner``         a backend through a case, step by step and on its own
``contract``       what a step keeps, leaves alone and refuses
``mutants``        wrong versions of a rule, all of which have to be told apart; ``kill`` does so
``gaps``           what a path does not do, as data
``plugin``         the pytest plugin; ``cli`` the command; ``report`` the pages
``oracles``        the same trajectories from implementations that nobody here wrote
=================  =================================================================================
"""
