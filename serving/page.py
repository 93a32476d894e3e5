"""The page at `/`: what this is, and where to look."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.core.params import TextLine
from serving.config import TOKEN

if TYPE_CHECKING:
    from serving.config import Config

__all__ = ["render"]

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>ATLAS · {name}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color:#222}}
code,pre{{background:#f4f4f4;padding:.1em .3em}}pre{{padding:.8em;overflow:auto}}td{{padding:.1em 1em .1em 0}}</style>
<h1>ATLAS · {name}</h1>
<p>This server answers with the scenario's best model, remembers what it answered, and takes corrections: they become bad
cases, and the loop makes a better model of them, which appears here by itself.</p>
<table>{facts}</table>
<h2>Ask</h2><pre>curl -s {at}predict -H 'content-type: application/json' -d '{item}'</pre>
<p>Several at once: <code>{{"items": [ITEM, …]}}</code>, at most {most}.</p>
<h2>Correct it</h2><pre>curl -s {at}feedback -H "authorization: Bearer ${token}" \\
  -H 'content-type: application/json' -d '{{"prediction_id": "…", "label": {label}}}'</pre>
<p>{open}</p>
<h2>Look</h2><p><a href="/readyz">/readyz</a> · <a href="/livez">/livez</a> · <a href="/metrics">/metrics</a></p></html>"""


def render(config: Config, status: Mapping[str, Any], at: str) -> str:
    """Return the page.

    Args:
        config: The server's.
        status: `Champion.status()`.
        at: The server's own URL, ending in a slash.
    """
    text = isinstance(config.task, TextLine)
    item = '{"image": "BASE64 OF A PNG OR JPEG"}' if text else '{"features": {"NAME": VALUE, …}}'
    facts = {
        "model": status["model"] or f"none: {status.get('error', '')}",
        "trained on": status["dataset"] or "-",
        "deployment": status["seq"] or ("pinned" if config.pinned else "-"),
    }
    if "failed" in status:
        facts["could not load"] = f"{status['failed']['model']}: {status['failed']['error']}"
    return _PAGE.format(
        name=html.escape(config.scenario),
        facts="".join(f"<tr><td>{key}<td><code>{html.escape(str(value))}</code>" for key, value in facts.items()),
        at=html.escape(at),
        item=html.escape(item),
        most=config.serving.max_batch,
        token=TOKEN,
        label='"…"' if text else "…",
        open="Feedback is on." if config.token else f"Feedback is off: {TOKEN} is not set.",
    )
