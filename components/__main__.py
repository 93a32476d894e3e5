"""The one way a step runs: `python -m components STEP --params JSON|@FILE --in PORT=KIND/SHA256 … --out FILE`.

Exit codes: 0 done, 99 nothing to do, 64 a contract is violated (do not retry), 75 try again.

`python -m components -` runs many, one after the other: each line on standard input is `{"argv": […], "log": FILE}`, each answer
a line with the exit code. Every step still gets a process of its own, forked from one that has imported the kernel already,
so the local engine pays for that import once and not seven times.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

from components.core import log
from components.core.contract import STEPS, Spec
from components.core.errors import AtlasError, ConfigError, TryAgain
from components.core.settings import Settings
from components.core.step import code_version, execute, load_spec, result_json
from components.core.store import open_store

logger = logging.getLogger("components")


def main(argv: list[str] | None = None) -> int:
    """Run one step and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["-"]:
        return _many()
    verbose = os.environ.get("ATLAS_VERBOSE") == "1"
    log.setup(as_json=os.environ.get("ATLAS_LOG") == "json", verbose=verbose)
    try:
        spec = load_spec(argv[0]) if argv and not argv[0].startswith("-") else None
        args = _parser(spec).parse_args(argv)
        return _run(args)
    except AtlasError as error:
        logger.error("%s", error, exc_info=verbose)
        return error.exit_code
    except OSError as error:
        logger.error("%s", TryAgain(f"the system refused: {error}", do="free space or memory, then run again"), exc_info=verbose)
        return TryAgain.exit_code


def _run(args: argparse.Namespace) -> int:
    spec = load_spec(args.step)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(spec.resources.cpu)  # the same thread count everywhere: float sums depend on it
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # nor may the last bit depend on the processor's generation, or on a container
    settings = Settings.from_env()
    inputs = dict(map(_port, args.inputs))
    outputs = execute(args.step, _json(args.params), inputs, run_id=args.run_id, settings=settings, join=args.join)
    result = result_json(outputs, open_store(settings))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(result)
    else:
        sys.stdout.write(result + "\n")
    return 0


def _many() -> int:
    _warm_up()
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_forked(command["argv"], command["log"]))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            sys.stdout.write(f"{code}\n")
            sys.stdout.flush()
        except BrokenPipeError:  # nobody waits any more; the step's result is kept all the same
            os._exit(0)
    return 0


def _warm_up() -> None:
    """Import and compute once what every step needs; nothing is opened, for a fork must not share a connection."""
    import sqlite3  # noqa: F401

    import sqlalchemy.dialects.sqlite  # noqa: F401

    for step in STEPS:
        load_spec(step)
    code_version()


def _forked(argv: list[str], log_file: str) -> int:
    with open(log_file, "wb") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        return main(argv)
    except SystemExit as error:  # argparse
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        logger.exception("a bug in the step")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _parser(spec: Spec | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m components {spec.name if spec else 'STEP'}",
        description=spec.summary if spec else __doc__,
        epilog=_ports_and_params(spec) if spec else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", metavar="STEP", help=f"one of: {', '.join(STEPS)}")
    parser.add_argument("--params", default="{}", metavar="JSON|@FILE", help="the step's params")
    parser.add_argument("--in", dest="inputs", action="append", default=[], metavar="PORT=KIND/SHA256", help="one input; repeat it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the outputs' references (default: standard output)")
    parser.add_argument("--join", action="store_true", help="automl: work on the search of another process, make nothing oneself")
    parser.add_argument("--run-id", default="by-hand", help="the loop run this belongs to")
    return parser


def _ports_and_params(spec: Spec) -> str:
    lines = ["inputs:"]
    lines += [f"  {name:<14} {port.kind:<10} {port.doc}" for name, port in spec.inputs.items()] or ["  none"]
    lines += ["outputs:"] + [f"  {name:<14} {port.kind:<10} {port.doc}" for name, port in spec.outputs.items()]
    lines += ["params:"]
    for name, param in spec.params.model_fields.items():
        default = "required" if param.is_required() else f"default {param.get_default(call_default_factory=True)!r}"
        lines.append(f"  {name:<14} {default}" + (f"; {param.description}" if param.description else ""))
    need = spec.resources
    lines += [f"resources: {need.cpu} cpu, {need.memory_mb} MiB, {need.gpu} gpu, image '{need.image}', at most {need.timeout_s} s"]
    return "\n".join(lines)


def _json(text: str) -> Any:
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"--params can't be read: {error}", do="give a JSON object, or @FILE with one") from error


def _port(text: str) -> tuple[str, str]:
    name, _, ref = text.partition("=")
    if not ref:
        raise ConfigError(f"--in '{text}' is not PORT=KIND/SHA256", do="give the port's name, '=', and the artifact's reference")
    return name, ref


if __name__ == "__main__":
    sys.exit(main())
