"""Fuzz files and command lines by changes that follow their structure.

``python -m tests.fuzz --minutes 10 --target t7`` in the root of the repository; see ``--help``.
"""
