"""The command line. `daedal "a prompt"` is `daedal text "a prompt"`; each verb is a thin file here.

stdout carries the result and nothing else; progress and remarks go to stderr. Exit codes: 0 done, 1
failed, 2 misused, 130 interrupted."""

import io
import os
import sys

import typer

from daedal.cli import (
    average,
    chat,
    code,
    compare,
    convert,
    curves,
    doctor,
    documents,
    embed,
    energy,
    evaluate,
    generate,
    history,
    label,
    lsp,
    mcp,
    memory,
    merge,
    models,
    moderate,
    prune,
    quantize,
    remote,
    serve,
    trace,
    train,
    verify,
)
from daedal.pipelines.registry import MEDIA


def verbs() -> typer.Typer:
    """The whole command line: a verb for each medium, and the others."""
    app = typer.Typer(
        name="daedal", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        help='A prompt becomes content, on your own machine. `daedal "Once upon a time"` writes a story; the verbs below do the rest.',
    )  # fmt: skip
    for medium in reversed(MEDIA):
        app.command(medium.verb or medium.name)(generate.verb(medium))
    app.command("chat")(chat.chat)
    app.command("serve")(serve.serve)
    app.command("ps")(remote.ps)
    app.command("stop")(remote.stop)
    app.add_typer(remote.jobs, name="jobs")
    app.command("train")(train.train)
    app.command("curves")(curves.curves)
    app.command("eval")(evaluate.verb())
    app.command("embed")(embed.embed)
    app.command("index")(documents.index)
    app.command("search")(documents.search)
    app.command("ask")(documents.ask)
    app.command("quantize")(quantize.quantize)
    app.command("prune")(prune.prune)
    app.command("convert")(convert.convert)
    app.command("average")(average.average)
    app.command("merge")(merge.merge)
    app.command("compare")(compare.compare)
    app.command("label")(label.label)
    app.add_typer(code.app, name="code")
    app.command("lsp")(lsp.lsp)
    app.command("mcp")(mcp.mcp)
    app.add_typer(models.app, name="models")
    app.add_typer(memory.app, name="memory")
    app.command("history")(history.history)
    app.command("again")(history.again)
    app.command("energy")(energy.energy)
    app.command("verify")(verify.verify)
    app.command("moderate")(moderate.moderate)
    app.command("trace")(trace.trace)
    app.command("doctor")(doctor.doctor)
    return app


app = verbs()


def main() -> None:
    """Entry point: runs a verb, prints an error a user can mend as one line, and sets the exit
    code."""
    from daedal.errors import DaedalError

    # what an encoding cannot show is replaced, and no work is lost over it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    args = sys.argv[1:]
    known = {each.name for each in (*app.registered_commands, *app.registered_groups)}
    if (args and args[0] not in known | {"--help", "-h", "--version"}) or (
        not args and not sys.stdin.isatty()
    ):
        args = ["text", *args]
    if args == ["--version"]:
        from daedal import __version__

        print(__version__)
        return
    try:
        code = app(args, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except DaedalError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        mend = "close other programs, take a smaller model, or load it with --quantize 8"
        fail(f"out of memory; {mend}", 1)
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        mend = "take a smaller model, a shorter context, or --quantize 8"
        fail(f"out of memory: {str(error).splitlines()[0]}; {mend}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # a misuse that the option parser found
            fail(error.format_message() + " (see --help)", 2)
        if type(error).__name__ in ("Abort",):
            fail("interrupted", 130)
        raise


def fail(sentence: str, code: int) -> None:
    print(f"daedal: {sentence}", file=sys.stderr)
    sys.exit(code)
