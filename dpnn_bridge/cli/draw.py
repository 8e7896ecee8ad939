"""Draw models on the command line: options and implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dpnn_bridge.base.atomic import check_output, write_text
from dpnn_bridge.base.display import counted
from dpnn_bridge.cli.terminal import OutputType, say_written

_OPTIONS = (
    click.option("--html", type=OutputType(), help="Write the model as an HTML page. Replaces FILE."),
    click.option("--dot", is_flag=True, help="Print the model as a Graphviz graph."),
    click.option("--mermaid", is_flag=True, help="Print the model as a Mermaid graph, for READMEs."),
    click.option(
        "--unfold", type=click.IntRange(0), help="Number of container levels that --dot and --mermaid unfold."
    ),
    click.option("--key", help="Part of the file, such as protos.rnn."),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        help="An input, such as 1x3x224x224, to show the shapes of all outputs.",
    ),
)


def picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :func:`draw` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def draw(
    source: Path,
    *,
    html: Path | None,
    dot: bool,
    mermaid: bool,
    unfold: int | None,
    key: str | None,
    inputs: Sequence[str],
    plugins: Sequence[Path] = (),
    quiet: bool = False,
) -> bool:
    """Draw the model in each format that an option selects.

    Returns:
        Whether an option selects a format.

    Raises:
        DpnnBridgeError: the file contains no model that can be converted.
    """
    if unfold is not None and not dot and not mermaid:
        raise click.UsageError("--unfold needs --dot or --mermaid")
    if dot and mermaid:
        raise click.UsageError("--dot and --mermaid both print to stdout; omit one of them")
    if html is None and not dot and not mermaid:
        return False
    if not isinstance(source, Path):
        raise click.UsageError(f"{source}: only local files can be drawn; save the content as a file first")
    if html is not None:
        check_output(html, True)
    from dpnn_bridge.cli.inputs import example_input
    from dpnn_bridge.files import load
    from dpnn_bridge.pictures import model_graph, page, to_dot, to_mermaid
    from dpnn_bridge.plugins import load_plugins

    load_plugins(plugins)
    model = load(source, key=key, allow_unsupported=not inputs).eval()
    graph = model_graph(model, example_input(inputs, model) if inputs else None, histograms=html is not None)
    if html is not None:
        write_text(html, page(graph, source.name, source=source), force=True)
        if not (quiet or dot or mermaid):
            say_written(source, html, counted(sum(1 for _ in graph.walk()), "layer"))
    for selected, to_text in ((dot, to_dot), (mermaid, to_mermaid)):
        if selected:
            click.echo(to_text(graph, unfold), nl=False)
    return True
