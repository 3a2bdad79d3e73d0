"""The command line: doors only. Each command parses, calls one function of a room and prints.

Heavy imports happen inside the commands, so that `equipoise --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise._cli_compare import compare
from equipoise._cli_explain import explain
from equipoise._cli_export import export
from equipoise._cli_predict import predict
from equipoise._cli_push import push
from equipoise._cli_report import report
from equipoise._cli_serve import serve
from equipoise._cli_trust import TrustOption
from equipoise.errors import BalanceError, EquipoiseError, RecipeError

if TYPE_CHECKING:
    from equipoise.balance import Balancer

app = typer.Typer(
    name="equipoise",
    help="Fine-tune one language model on several text tasks at once, and keep the tasks in balance while it trains.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as training.epochs=2.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from equipoise import __version__

        typer.echo(f"equipoise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes with every command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of every command; `main` has dealt with --debug before."""


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A table: csv, tsv, jsonl or parquet.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The recipe to write; - prints it.")] = Path(
        "recipe.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that stands there.")] = False,
) -> None:
    """Look at a table and write a commented recipe for it.

    Example: equipoise init reviews.csv -o recipe.yaml
    """
    from equipoise.data import guess, recipe_text
    from equipoise.runs import write_text

    if str(output) != "-" and output.exists() and not force:
        raise RecipeError(f"{output} exists. Replace it with --force, or choose another name with -o")
    shown = data if str(output) == "-" else _relative(data, output.parent)
    text = recipe_text(guess(data), shown, "recipe.yaml" if str(output) == "-" else output)
    if str(output) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"wrote {output}. Read it, then: equipoise validate {output}", err=True)


def _relative(path: Path, folder: Path) -> Path:
    return Path(os.path.relpath(path.resolve(), folder.resolve()))


@app.command()
def validate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")], set_: Set = None
) -> None:
    """Check a recipe and its data without training, and say what training would do."""
    import tempfile

    from equipoise.recipe import load
    from equipoise.report import plan_lines
    from equipoise.terminal import visible
    from equipoise.training import make_plan

    loaded = load(recipe, set_ or [])
    with tempfile.TemporaryDirectory(prefix="equipoise-") as folder:
        for line in plan_lines(make_plan(loaded, Path(folder)).describe()):
            typer.echo(visible(line))
    typer.echo(f"{recipe} is sound. Train it with: equipoise train {recipe}")


@app.command(name="recipe")
def show_recipe(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default written out.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON Schema of recipes, for editors.")] = False,
    set_: Set = None,
) -> None:
    """Print a recipe as it is understood, or the JSON Schema of all recipes."""
    from equipoise import recipe as recipes

    if schema:
        typer.echo(json.dumps(recipes.schema(), indent=2))
    elif recipe is None:
        raise RecipeError("name a recipe, or ask for --schema")
    else:
        loaded = recipes.load(recipe, set_ or [])
        typer.echo(recipes.dump(loaded, defaults=resolved), nl=False)


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Continue a run that stopped.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands there.")] = False,
    trust_remote_code: TrustOption = False,
    set_: Set = None,
) -> None:
    """Train one model on all tasks of a recipe, evaluate it, write a run folder.

    Example: equipoise train recipe.yaml --set training.epochs=2

    Example: equipoise train --resume runs/reviews
    """
    if (recipe is None) == (resume is None):
        raise RecipeError("train takes a RECIPE, or --resume RUN, and not both")
    from equipoise import training

    if resume is not None:
        if set_ or output or overwrite:
            raise RecipeError("--resume continues a run as it was started: --set, -o and --overwrite don't go with it")
        run = training.resume(resume, trust_remote_code=trust_remote_code)
    else:
        if trust_remote_code:
            raise RecipeError(
                "--trust-remote-code goes with --resume. In a recipe it is --set model.trust_remote_code=true"
            )
        assert recipe is not None
        run = training.train(recipe, overrides=set_ or [], output=output, overwrite=overwrite)
    _print_run(run)


app.command()(compare)
app.command()(report)
app.command()(serve)
app.command()(push)
app.command()(explain)


def _print_run(run: Any) -> None:
    from equipoise.report import metrics_table
    from equipoise.terminal import Console

    console = Console()
    for split in run.metrics["splits"]:
        console.print(metrics_table(run.metrics, split))
    console.print(f"run folder: {run.folder}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="A labelled table.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every metric.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Judge a trained run on a labelled table."""
    from equipoise.inference import evaluate_file, load
    from equipoise.report import evaluation_table
    from equipoise.terminal import Console, json_text, visible

    # As metrics.json was measured.
    found = evaluate_file(load(run, precision="fp32", trust_remote_code=trust_remote_code), data)
    if as_json:
        typer.echo(json_text(found, indent=2))
        return
    Console().print(evaluation_table(found["tasks"], f"{data}, {found['rows']} rows"))
    if found["rejected"]:
        first = found["rejected_rows"][0]
        typer.echo(
            visible(
                f"{found['rejected']} rows took no part, the first at line {first['line']}: {first['reason']} (--json lists all)"
            ),
            err=True,
        )


app.command()(predict)


app.command()(export)


@app.command()
def balancers(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A method, to be told whole.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything.")] = False,
) -> None:
    """List the balancing methods: what each does, needs and costs; with a NAME, tell all about one.

    Example: equipoise balancers dao
    """
    from equipoise.balance import available, defaults_of, describe
    from equipoise.balance._registry import by_family, did_you_mean
    from equipoise.terminal import Console

    rows = describe(broken=True)
    if name is not None:
        names = [row["method"] for row in rows]
        rows = [row for row in rows if row["method"] == name]
        if not rows:
            raise BalanceError(f"no balancer {name!r}.{did_you_mean(name, names)} Available: {', '.join(names)}")
    classes = [None if row["error"] else available()[row["method"]] for row in rows]
    if as_json:
        found = [row | {"defaults": defaults_of(cls) if cls else {}} for row, cls in zip(rows, classes, strict=True)]
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=repr))
        return
    console = Console(highlight=False)
    if name is not None:
        for row, cls in zip(rows, classes, strict=True):
            _print_balancer(console, row, cls)
        return
    width = max(len(row["method"]) for row in rows)
    for title, members in by_family(rows).items():
        _print_family(console, title, members, width)
    console.print("All about one: equipoise balancers NAME. In a recipe: balance: {method: NAME}")


def _print_family(console: Any, title: str, rows: list[dict[str, str]], width: int) -> None:
    """One table; a cost that several of its methods share is told once, below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    costs = [row["cost"] for row in rows]
    usual = max(costs, key=lambda cost: (sum(other.startswith(cost) for other in costs if len(cost) > 40), len(cost)))
    if len(usual) <= 40 or sum(cost.startswith(usual) for cost in costs) < 3:
        usual = ""
    table = Table(box=box.SIMPLE_HEAD, title=Text(title, "bold"), title_justify="left", expand=True, pad_edge=False)
    table.add_column("method", no_wrap=True, min_width=width)
    for heading, ratio in (("rule", 5), ("needs", 4), ("cost", 4)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for row in rows:
        rule = f"cannot be used: {row['error']}" if row["error"] else row["rule"]
        needs = row["needs"] if row["package"] == "equipoise" else f"{row['needs']} (package {row['package']})".strip()
        cost = row["cost"].replace(usual, "(*)", 1) if usual else row["cost"]
        table.add_row(*(Text(text) for text in (row["method"], rule, needs, cost)))
    console.print(table)
    if usual:
        console.print(Text(f"(*) {usual}\n"))


def _print_balancer(console: Any, row: dict[str, str], cls: type[Balancer] | None) -> None:
    """All about one method; `cls` is None if it cannot be used."""
    import inspect

    from rich.table import Table
    from rich.text import Text

    keys = ("method", "class", "package", "error", "source", "url", "rule", "needs", "cost", "state", "ours")
    lines = [(key, row[key]) for key in keys if row[key]]
    if cls is not None:
        example = {"method": row["method"]}
        if "shared" in cls.requires and "representation" not in cls.scopes:
            example["shared"] = "last_layer"
        for setting in filter(None, row["settings"].split(", ")):
            parameter = inspect.signature(cls).parameters[setting]
            default: object = "required"
            if parameter.default is not parameter.empty:
                default = parameter.default
            else:
                example[setting] = _placeholder(setting, str(parameter.annotation))
            told = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False, default=repr)
            lines.append(("settings", f"{setting}: {told}"))
        in_yaml = ", ".join(f"{key}: {value}" for key, value in example.items())
        lines.append(("recipe", f"balance: {{{in_yaml}}}"))
    table = Table.grid(padding=(0, 2))
    for number, (key, text) in enumerate(lines):
        table.add_row(Text("" if number and lines[number - 1][0] == key else key, "bold"), Text(text, overflow="fold"))
    console.print(table)


def _placeholder(setting: str, annotation: str) -> str:
    """What stands in an example for a setting that only the user knows."""
    if setting == "of":
        return "dao"
    return "{TASK: 1.0}" if "Mapping" in annotation else "TASK" if "str" in annotation else "..."


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder; a run there is replaced.")] = Path(
        "runs/demo"
    ),
    set_: Set = None,
) -> None:
    """Train the bundled encoder on the synthetic demo set, evaluate it and predict three sentences.

    Example: equipoise demo --set training.max_steps=20
    """
    from equipoise import training
    from equipoise.demo import SENTENCES, recipe_path
    from equipoise.inference import load
    from equipoise.report import predictions_table
    from equipoise.terminal import Console

    console = Console()
    console.print(
        "Demo: synthetic financial headlines and posts, three tasks on one text, balanced by DAO.", highlight=False
    )
    run = training.train(recipe_path(), overrides=set_ or [], output=output, overwrite=True)
    _print_run(run)
    found = load(run).predict(list(SENTENCES))
    console.print(predictions_table(SENTENCES, {str(name): found[name].tolist() for name in found.columns}))
    console.print(f'next: equipoise predict {run.folder} INPUT.csv -o OUTPUT.csv, or eq.load("{run.folder}") in Python',
                  highlight=False, soft_wrap=True)  # fmt: skip


def main() -> None:
    """Runs the command line; an error of the user's is one line and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(arguments, standalone_mode=False)
    except (EquipoiseError, typer.TyperException) as error:
        if debug:
            traceback.print_exc()
        if str(error):  # without a command the help has been printed, and there is nothing to add
            typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped. A training run continues with: equipoise train --resume RUN", err=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output went away, which is its right; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    raise SystemExit(code if isinstance(code, int) else 0)


__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
