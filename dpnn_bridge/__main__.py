"""Run the commands as ``dpnn COMMAND …`` or ``python -m dpnn_bridge COMMAND …``."""

from __future__ import annotations

import importlib

import click

from dpnn_bridge.base.display import printable
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.cli.terminal import ReportingCommand

#: command -> (module, function, help); the module is imported when the command runs, because some import PyTorch
COMMANDS = {
    "convert": ("dpnn_bridge.cli.convert", "convert_command", "Convert Torch7 models to PyTorch (dpnn-convert)."),
    "inspect": ("dpnn_bridge.cli.inspect", "inspect_command", "Summarize a .t7 file (dpnn-inspect)."),
    "verify": ("dpnn_bridge.cli.verify", "verify_command", "Compare a model with Torch7 (dpnn-verify)."),
    "lua": ("dpnn_bridge.cli.lua", "lua_command", "Run Torch7 scripts (dpnn-lua)."),
}


class Commands(ReportingCommand, click.Group):
    """The group of all commands, named without ``dpnn-``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        return getattr(importlib.import_module(module), function)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-"):
            hint = did_you_mean(name, COMMANDS, f"the commands are {', '.join(COMMANDS)}")
            raise click.UsageError(f"No such command {printable(name)!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dpnn-bridge")
def main() -> None:
    """Convert Torch7 checkpoints to PyTorch modules and verify the result."""


if __name__ == "__main__":
    main(prog_name="python -m dpnn_bridge")
