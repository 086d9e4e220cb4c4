"""The parity of a feature service as one HTML file: a verdict, a picture, the examples behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from slipway.features.parity import OUTCOMES, Example, Parity

COLOURS = {"equal": "#2f9e6e", "stale": "#e0a526", "missing": "#7b8794", "different": "#d1495b"}
MEANING = {
    "equal": "the same value, or no value on both sides",
    "stale": "past its TTL online, though offline has a newer one",
    "missing": "not in the online store",
    "different": "another value, or one of another schema",
}
VERDICTS = {"pass": "#2f9e6e", "fail": "#d1495b", "inconclusive": "#e0a526"}
BAR, GAP, LEFT, WIDTH = 14, 5, 300, 620

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6876; --line: #dde3ea; --paper: #ffffff;
        --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa7b5; --line: #303a45; --paper: #12181f; --card: #1a222b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 40px 28px 64px; background: var(--paper);
       color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0 0 4px; font-size: 27px; letter-spacing: -0.01em; }
h2 { margin: 40px 0 12px; font-size: 18px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.badge { display: inline-block; padding: 2px 12px; border-radius: 999px; color: #fff; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
           margin: 24px 0 8px; }
.figure { padding: 14px 16px; border-radius: 10px; background: var(--card); border: 1px solid var(--line); }
.figure b { display: block; font-size: 25px; font-variant-numeric: tabular-nums; }
.legend span { margin-right: 18px; white-space: nowrap; }
.legend i { display: inline-block; width: 11px; height: 11px; margin-right: 6px; border-radius: 3px; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .soft { fill: var(--soft); } svg .head { font-weight: 600; font-size: 13px; }
.wide { overflow-x: auto; } table { width: 100%; border-collapse: collapse; font-size: 14px; }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
code { font: 13px ui-monospace, "SF Mono", Menlo, monospace; overflow-wrap: anywhere; }
"""


def render_report(parity: Parity) -> str:
    totals = {
        outcome: sum(tally[outcome] for paths in parity.counts.values() for tally in paths.values())
        for outcome in OUTCOMES
    }
    gate = parity.gate
    figures = "".join(
        f'<div class="figure"><b style="color:{COLOURS[name] if count else "inherit"}">{count:,}</b>'
        f'<span class="soft">{name}</span></div>'
        for name, count in totals.items()
    )
    sampled = ", ".join(f"{escape(view)} {rows}" for view, rows in parity.sampled.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Parity of {escape(parity.service)}</title><style>{STYLE}</style></head><body>
<h1>Parity of {escape(parity.service)}</h1>
<p><span class="badge" style="background:{VERDICTS[gate.verdict]}">{gate.verdict}</span>
&nbsp;{escape(gate.reason)}</p>
<p class="soft">Offline as of {parity.as_of:%Y-%m-%d %H:%M:%S} UTC, against {escape(", ".join(parity.paths))}.
Entities by view: {sampled or "none"}. Seed {parity.seed}. Definition
<code>{escape(parity.digest[:16])}</code>.</p>
<div class="figures">{figures}</div>
<h2>Feature by feature</h2>
<p class="legend">{_legend()}</p>
{_picture(parity)}
{_examples(parity.examples)}
</body></html>
"""


def _legend() -> str:
    return "".join(
        f'<span title="{MEANING[name]}"><i style="background:{COLOURS[name]}"></i>{name}</span>'
        for name in OUTCOMES
    )


def _picture(parity: Parity) -> str:
    """One row of bars a feature, one bar a path; the views as headings."""
    if not parity.counts:
        return '<p class="soft">There was nothing to compare.</p>'
    by_view: dict[str, list[str]] = {}
    for name in sorted(parity.counts):
        by_view.setdefault(name.rpartition(":")[0], []).append(name)
    paths = parity.paths
    column = (WIDTH - (len(paths) - 1) * 16) / len(paths)
    parts, y = [], 18
    for at, path in enumerate(paths):
        parts.append(f'<text class="soft" x="{LEFT + at * (column + 16):.1f}" y="{y}">{escape(path)}</text>')
    y += 16
    for view, names in by_view.items():
        parts.append(f'<text class="head" x="0" y="{y + 12}">{escape(view)}</text>')
        y += 26
        for name in names:
            feature = name.rpartition(":")[2]
            label = feature if len(feature) <= 42 else feature[:40] + "…"
            parts.append(f'<text x="12" y="{y + 11}">{escape(label)}</text>')
            for at, path in enumerate(paths):
                tally = parity.counts[name].get(path)
                parts.append(_bar(name, path, tally, LEFT + at * (column + 16), y, column))
            y += BAR + GAP
        y += 12
    return f'<svg viewBox="0 0 {LEFT + WIDTH} {y}" role="img" aria-label="Outcomes by feature">' + (
        "".join(parts) + "</svg>"
    )


def _bar(name: str, path: str, tally: Mapping[str, int] | None, left: float, top: float, width: float) -> str:
    if not tally or not sum(tally.values()):
        return f'<text class="soft" x="{left:.1f}" y="{top + 11}">not comparable here</text>'
    total = sum(tally.values())
    parts, x = [], left
    for outcome in OUTCOMES:
        if tally[outcome]:
            # At least two pixels: one wrong value of a thousand must still be seen.
            share = max(width * tally[outcome] / total, 2.0)
            share = min(share, left + width - x)
            hint = f"{escape(name)} by {escape(path)}: {tally[outcome]} of {total} {outcome}"
            parts.append(
                f'<rect x="{x:.2f}" y="{top}" width="{share:.2f}" height="{BAR}" fill="{COLOURS[outcome]}">'
                f"<title>{hint}</title></rect>"
            )
            x += share
    return "".join(parts)


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    rows = "".join(
        f"<tr><td>{escape(item.view)}:<b>{escape(item.feature)}</b></td><td>{escape(item.path)}</td>"
        f'<td style="color:{COLOURS[item.outcome]};font-weight:600">{item.outcome}</td>'
        f"<td><code>{escape(_entity(item.entity))}</code></td>"
        f"<td><code>{escape(_short(item.offline))}</code></td>"
        f"<td><code>{escape(_short(item.found))}</code> "
        f"<span class='soft'>{escape(item.status)}</span></td></tr>"
        for item in examples
    )
    return (
        "<h2>Examples</h2><div class='wide'><table><tr><th>Feature</th><th>Path</th><th>Outcome</th>"
        f"<th>Entity</th><th>Offline</th><th>Found</th></tr>{rows}</table></div>"
    )


def _entity(entity: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in entity.items()) or "-"


def _short(value: object) -> str:
    text = "no value" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
