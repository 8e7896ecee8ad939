"""Structure-aware fuzzing: files and command lines of every kind, changed where their format says it hurts.

``python -m tests.fuzz --minutes 10 --target t7`` in the root of the repository; see ``--help``.
"""
