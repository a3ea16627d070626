"""Oracles: the same trajectories run by implementations that nobody here wrote.

=================== ==============================================================================
``tensorflow``      TensorFlow's own CPU kernels, live: AddSign, PowerSign, the sign decays, Adam
``libraries``       torch.optim, torch.nn.utils and optax, live, and loops written from the papers
``catalogue``       the authors' packages and the collections, live
``golden``          the TensorFlow trajectories on file, for machines without TensorFlow
``make_golden``     the script that wrote them
=================== ==============================================================================

Run them with ``python -m isostep_conformance.oracles tensorflow|libraries|catalogue``. Importing this package
imports no framework. An oracle never shares code with the rule that it judges: nothing in this
folder imports from ``isostep.rules``.
"""
