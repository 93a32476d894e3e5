"""The report as a page: one file, no script, no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["render"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde3ea}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bad{color:#b3261e;font-weight:600}.good{color:#1a7f4b}svg{vertical-align:middle}
"""


def render(report: Mapping[str, Any], docs: str | None) -> str:
    """Render `report.json` for people.

    Args:
        report: What validate found.
        docs: Where Data Docs lie, relative to the page.
    """
    rows = report["rows"]
    parts = [
        f"<h1>{escape(report['scenario'])}: validation</h1>",
        f"<p>{rows['in']} annotations came in, <b class=good>{rows['passed']}</b> passed, "
        f"<b class={'bad' if rows['quarantined'] else 'good'}>{rows['quarantined']}</b> are in quarantine.",
        f' <a href="{escape(docs)}">Great Expectations\' Data Docs</a>' if docs else "",
        "</p><h2>Rules</h2>",
        _table(("rule", "level", "allowed", "found", ""), (_rule(rule) for rule in report["rules"])),
        "<h2>Drift against the champion's training rows</h2>",
        _drift(report["drift"]),
    ]
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>validation</title><style>{_STYLE}</style>{"".join(parts)}</html>'


def _rule(rule: Mapping[str, Any]) -> Sequence[str]:
    found = f"{rule['broken']} broken rows" if rule["level"] == "row" else str(rule["observed"])
    verdict = "<span class=good>passed</span>" if rule["passed"] else "<span class=bad>broken</span>"
    return [escape(rule["rule"]), escape(rule["level"]), escape(rule["allowed"]), escape(found), verdict]


def _drift(drift: Mapping[str, Any] | None) -> str:
    if drift is None:
        return "<p>No champion serves yet: there is nothing to compare with.</p>"
    if not drift["columns"]:
        return f"<p>{drift['new']} new items: too few to compare.</p>"
    head = f"<p>{drift['new']} new items against {drift['trained']} that it was trained on.</p>"
    most = max([column["psi"] for column in drift["columns"]] + [drift["limits"]["psi"], 1e-9])
    rows = []
    for column in sorted(drift["columns"], key=lambda entry: -entry["psi"]):
        width, colour = 160 * column["psi"] / most, "#b3261e" if column["drifted"] else "#7c93ab"
        bar = f'<svg width="160" height="10"><rect width="{width:.1f}" height="10" fill="{colour}"/></svg>'
        ks = "" if column["ks"] is None else f"{column['ks']:.3f}"
        state = "<span class=bad>drifted</span>" if column["drifted"] else ""
        rows.append([escape(column["column"]), f"{column['psi']:.3f} {bar}", f"{column['psi_noise']:.3f}", ks, state])
    return head + _table(("column", "PSI", "PSI of equal samples", "KS", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
