"""The `roomcast` command."""

from __future__ import annotations

import sys

import click

from roomcast.cli import dev
from roomcast.cli.channel import publish_command, subscribe_command
from roomcast.cli.check import check_command, check_node_settings
from roomcast.cli.map import map_group
from roomcast.cli.terminal import Failure, settings_of_environment
from roomcast.cli.token import token_command
from roomcast.cli.worker import worker_group
from roomcast.server import listen, serve
from roomcast.version import __version__

_LAST_PORT = 65535


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="roomcast")
def cli() -> None:
    """Broadcast to every browser on every node.

    Settings come from the environment (ROOMCAST_...); `roomcast check` shows them.
    """


@cli.command("dev")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port of the first node.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 16), help="How many nodes.")
@click.option(
    "--balancer-port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the balancer in front of the nodes; 0 for any free port.",
)
def dev_command(host: str, port: int, nodes: int, balancer_port: int) -> None:
    """Run a whole cluster on this machine."""
    settings = settings_of_environment()
    ports = range(port, port + nodes)
    if ports[-1] > _LAST_PORT:
        raise click.UsageError(f"{nodes} nodes from port {port} on need ports beyond {_LAST_PORT}")
    if balancer_port in ports:
        raise click.UsageError(f"port {balancer_port} is for a node; choose another one with --balancer-port")
    dev.run(settings, host=host, ports=ports, balancer_port=balancer_port)


@cli.command("node")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def node_command(host: str, port: int) -> None:
    """Run one node."""
    settings = settings_of_environment()
    check_node_settings(settings)
    try:
        listener = listen(host, port, settings=settings)
    except OSError as exc:
        raise Failure(f"cannot listen on {host} port {port}: {exc.strerror}; choose with --host and --port") from exc
    sys.exit(serve(listener, settings))


for _command in (check_command, worker_group, publish_command, subscribe_command, map_group, token_command):
    cli.add_command(_command)


def run() -> None:
    """Run the command. Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C. Each error is one line."""
    try:
        sys.exit(cli.main(prog_name="roomcast", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        sys.exit(0)
    except click.ClickException as exc:
        hint = ""
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            hint = f" (see: {exc.ctx.command_path} --help)"
        click.echo(f"roomcast: {exc.format_message()}{hint}", err=True)
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
