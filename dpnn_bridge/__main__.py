"""``python -m dpnn_bridge``: the same as ``dpnn-convert``."""

from dpnn_bridge.cli import convert_command

convert_command(prog_name="python -m dpnn_bridge")
