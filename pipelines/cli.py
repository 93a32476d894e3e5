"""`atlas …`: what people touch. Results are tables on stdout, errors one clear line on stderr; -v adds the traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.core import log
from components.core.errors import AtlasError, ConfigError, NothingToDo, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.store import open_store
from pipelines import cli_cases, scenario, show
from pipelines.local import run_local
from pipelines.loop import build

__all__ = ["app", "main"]

app = typer.Typer(name="atlas", help="Keep deployed models right.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cli_cases.app, name="cases")
console = show.output()
errors = Console(stderr=True)
_verbose = False

ScenarioName = Annotated[str, typer.Argument(metavar="SCENARIO", help="a scenario's name, such as ocr or credit")]


def main() -> None:
    """Entry point: run a command; turn ATLAS's own errors into one line and their exit code."""
    try:
        app(standalone_mode=True)
    except AtlasError as error:
        if _verbose:
            errors.print_exception()
        style = "yellow" if isinstance(error, NothingToDo) else "red"
        errors.print(f"[{style}]{'nothing to do' if isinstance(error, NothingToDo) else 'error'}[/]: ", end="")
        errors.print(error.message, markup=False, highlight=False)
        if error.do:
            errors.print(f"  -> {error.do}", markup=False, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("stopped; finished steps are kept")
        sys.exit(130)


@app.callback()
def options(verbose: Annotated[bool, typer.Option("-v", "--verbose", help="log more, and show tracebacks")] = False) -> None:
    """Options of every command."""
    global _verbose
    _verbose = verbose
    if verbose:
        os.environ["ATLAS_VERBOSE"] = "1"
    log.setup(verbose=verbose)


@app.command()
def init(name: ScenarioName, like: Annotated[str, typer.Option(help="the scenario to start from")] = "credit") -> None:
    """Write a new scenario file to edit, started from a shipped one."""
    settings = Settings.from_env()
    folder = settings.scenarios or settings.home / "scenarios"
    target = folder / f"{name}.yaml"
    if target.exists():
        raise ConfigError(f"{target} exists already", do="edit it, or choose another name")
    written = scenario.copy(like, name, folder, settings)
    console.print("wrote " + ", ".join(str(path) for path in written))
    console.print(f"edit it, then: atlas run {name}")


@app.command()
def run(
    name: ScenarioName,
    engine: Annotated[str, typer.Option(help="local, or kfp: Kubeflow's local runner")] = "local",
    run_id: Annotated[str, typer.Option(help="resume or repeat this run")] = "",
    deploy: Annotated[bool, typer.Option(help="whether an accepted model is deployed")] = True,
    trials: Annotated[int | None, typer.Option(help="override automl.trials")] = None,
) -> None:
    """Turn the loop of a scenario once, here."""
    settings = Settings.from_env()
    overrides = {"automl": {"trials": trials}} if trials else None
    graph = build(scenario.find(name, settings, overrides), deploy=deploy)
    run_id = run_id or f"{engine}-{uuid.uuid4().hex[:12]}"
    if engine == "kfp":
        from pipelines.to_kfp import run_local as run_kfp

        run_kfp(graph, run_id=run_id, settings=settings)
    elif engine == "local":
        with show.Progress(console, [node.name for node in graph.nodes]) as progress:
            try:
                run_local(graph, run_id=run_id, settings=settings, on_step=progress)
            except TryAgain:
                console.print(f"resume with: atlas run {name} --run-id {run_id}")
                raise
    else:
        raise ConfigError(f"there is no engine '{engine}' here", do="use local or kfp; Airflow starts its own runs: atlas up")
    with Ledger.open(settings.ledger) as ledger:
        show.outcome(console, ledger, open_store(settings), name, run_id)


@app.command()
def serve(name: ScenarioName, port: Annotated[int | None, typer.Option(help="instead of the scenario's port")] = None) -> None:
    """Serve a scenario's champion on loopback, until stopped."""
    from serving.launch import command, environment

    settings = Settings.from_env()
    chosen = scenario.find(name, settings)
    env = environment(chosen.serving_json(), settings)
    line = command(port or chosen.serving.port)
    console.print(f"serving {name} at http://127.0.0.1:{port or chosen.serving.port}", highlight=False)
    os.execvpe(line[0], line, os.environ | env)


@app.command()
def up() -> None:
    """Start serving and Airflow, and leave them running."""
    from pipelines import stack

    settings = Settings.from_env()
    with console.status("starting (Airflow takes a minute or two) …"):
        places = stack.up(settings)
    show.places(console, places)


@app.command()
def down() -> None:
    """Stop what `atlas up` started."""
    from pipelines import stack

    stopped = stack.down(Settings.from_env())
    console.print(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="which traffic is drawn")] = 0,
    keep: Annotated[bool, typer.Option(help="leave serving and Airflow running")] = False,
) -> None:
    """A first OCR model, its mistakes on unseen writers, and the loop that repairs it while it serves."""
    from pipelines.demo import run_demo

    run_demo(console, Settings.from_env(), seed=seed, keep=keep)


@app.command()
def status(name: Annotated[str | None, typer.Argument(metavar="[SCENARIO]")] = None) -> None:
    """What serves, which cases are where, what ran last."""
    settings = Settings.from_env()
    with Ledger.open(settings.ledger) as ledger:
        show.status(console, ledger, [name] if name else scenario.names(settings))


@app.command()
def report(
    name: ScenarioName,
    run_id: Annotated[str, typer.Option(help="default: the newest run that has one")] = "",
    open_: Annotated[bool, typer.Option("--open", help="show the pages in the browser")] = False,
) -> None:
    """What the newest search of a scenario came to, and where its newest reports are (evaluate, automl, validate)."""
    settings = Settings.from_env()
    with Ledger.open(settings.ledger) as ledger:
        pages = show.reports(console, ledger, open_store(settings), name, run_id or None, in_full=True)
    for page in pages if open_ else ():
        if not webbrowser.open(page.as_uri()):
            raise ConfigError("no browser could be started here", do=f"open {page} yourself")


@app.command()
def lineage(prediction_id: Annotated[str, typer.Argument(metavar="PREDICTION_ID")]) -> None:
    """For one prediction: which model, which dataset version, which cases, which run."""
    with Ledger.open(Settings.from_env().ledger) as ledger:
        console.print_json(json.dumps(ledger.lineage(prediction_id), default=str))


@app.command()
def rollback(
    name: ScenarioName,
    to: Annotated[int | None, typer.Option(help="a deployment's number; default: the one before")] = None,
) -> None:
    """Make an earlier deployment serve again; running servers follow within a second."""
    with Ledger.open(Settings.from_env().ledger) as ledger:
        now = ledger.rollback(name, to_seq=to)
    console.print(f"{name} serves {show.short(now.model)} again (deployment {now.seq}, was {now.previous})")


@app.command()
def release(name: ScenarioName) -> None:
    """Free a scenario whose run died; its cases become claimable at once."""
    with Ledger.open(Settings.from_env().ledger) as ledger:
        lease = ledger.lease(name)
        if lease is None or not ledger.release(name, lease.run_id):
            raise NothingToDo(f"no run holds {name}", do="start one: atlas run " + name)
    console.print(f"released {name} from {lease.run_id}")


@app.command()
def profile(
    name: ScenarioName,
    to: Annotated[Path | None, typer.Option(help="where to write the suite; default: standard output")] = None,
) -> None:
    """Draft a Great Expectations suite from a scenario's base annotations, to be read and edited."""
    settings = Settings.from_env()
    no_suite_yet = {"validate": {"suite": {"name": name, "expectations": []}}}
    chosen = scenario.find(name, settings, no_suite_yet)
    with tempfile.TemporaryDirectory() as folder:
        table, params = Path(folder) / "rows.parquet", Path(folder) / "params.json"
        params.write_text(json.dumps(chosen.params("ingest")))
        _module("components.ingest.preview", "--params", f"@{params}", "--out", str(table))
        task = json.dumps(chosen.task.model_dump(mode="json"))
        _module("components.validate.profile", "--task", task, "--table", str(table), "--name", name, *(["--out", str(to)] if to else []))


def _module(module: str, *words: str) -> None:
    """Run a step's helper in a process of its own: this one stays free of the heavy libraries."""
    code = subprocess.run([sys.executable, "-m", module, *words], check=False, env=os.environ | Settings.from_env().env()).returncode
    if code:
        raise typer.Exit(code)


@app.command()
def compile(
    name: Annotated[str | None, typer.Argument(metavar="[SCENARIO]")] = None,
    all_: Annotated[bool, typer.Option("--all", help="every shipped scenario, and the structure of the Airflow DAG")] = False,
    to: Annotated[Path, typer.Option(help="folder")] = Path("."),
) -> None:
    """Compile scenarios for Kubeflow Pipelines."""
    from pipelines.to_kfp import compile_pipeline

    settings = Settings.from_env()
    to.mkdir(parents=True, exist_ok=True)
    chosen = scenario.shipped() if all_ else [scenario.find(name or "", settings)]
    for each in chosen:
        compile_pipeline(each, to / f"{each.name}.kfp.yaml")
        console.print(f"wrote {to / f'{each.name}.kfp.yaml'}")
    if all_:
        from pipelines.to_airflow import write_structure

        write_structure(to / "airflow_loop.json")
        console.print(f"wrote {to / 'airflow_loop.json'}")


@app.command()
def manifest(
    name: ScenarioName,
    folder: Annotated[str, typer.Option(help="the job's folder on the shared volume, with its job.json")],
    kind: Annotated[str, typer.Option(help="TrainJob (Kubeflow Trainer 2) or PyTorchJob (Training Operator 1)")] = "TrainJob",
    gpus: Annotated[int, typer.Option(help="devices of a node, a rank on each; 0: every rank is a node")] = 0,
    image: Annotated[str, typer.Option(help="has ATLAS and its learn libraries")] = "localhost/atlas-learn:latest",
) -> None:
    """Print the Kubernetes manifest of a scenario's training job: its processes on nodes that have the train step's resources."""
    from components.core.step import load_spec
    from components.train.parallel import manifest as manifests

    parallel = scenario.find(name, Settings.from_env()).train.parallel
    if parallel is None or parallel.strategy == "graph":
        raise ConfigError(f"{name} asks for no job of several processes", do="give train.parallel a strategy other than graph")
    need = replace(load_spec("train").resources, gpu=gpus)
    typer.echo(manifests.to_yaml(manifests.manifest(kind, name, parallel.world, need, image=image, folder=folder)), nl=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="loop, automl, scale, nas")] = "loop",
    quick: Annotated[bool, typer.Option(help="a smaller version of the same measurement")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one object a line")] = False,
    tables: Annotated[str, typer.Option(help="automl: only these tables, with commas between")] = "",
    systems: Annotated[str, typer.Option(help="automl: only these of ours,flaml,autogluon,lightgbm")] = "",
    cases: Annotated[
        str,
        typer.Option(
            help="automl: only these of cold,warm,workers,rgpe; scale: of head,strategies,graph,recompute,watch; "
            "nas: of search,ranking,budgets"
        ),
    ] = "",
    budgets: Annotated[str, typer.Option(help="automl: seconds that a search may take, with commas between")] = "",
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="automl: which rows are put aside, seeds with commas between")] = "0",
    again: Annotated[bool, typer.Option(help="automl, scale: measure anew what was measured before")] = False,
) -> None:
    """Measure; each figure stands beside a rival's or a limit. What was interrupted goes on where it was."""
    from pipelines import bench as benches

    given = (("tables", tables), ("systems", systems), ("cases", cases), ("budgets", budgets), ("seeds", seeds))
    chosen = {key: tuple(filter(None, text.split(","))) for key, text in given}
    show.bench(console, benches.run(name, quick=quick, again=again, **chosen), as_json=as_json)


if __name__ == "__main__":
    main()
