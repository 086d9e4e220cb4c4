"""The report of a model version: one HTML file that needs nothing else, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from components.evaluate.charts import Axes, Row, dot_plot, ticks
from components.evaluate.evaluation import Evaluation, SplitScore
from components.evaluate.scores import Scores
from components.metrics import Interval
from slipway.contract import GateResult
from slipway.project import Project

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
_METRICS = (
    ("roc_auc", "ROC AUC", "chance is 0.5"),
    ("pr_auc", "PR AUC", "chance is the positives' share"),
    ("log_loss", "Log loss", "less is better"),
    ("brier", "Brier score", "less is better"),
    ("calibration_error", "Calibration error", "less is better"),
)
_STYLE = Path(__file__).with_name("report.css")


def render(
    project: Project,
    evaluation: Evaluation,
    *,
    gates: Sequence[GateResult] = (),
    provenance: Mapping[str, str] | None = None,
) -> str:
    scores = evaluation.challenger
    parts = [
        f"<h1>{escape(project.title)}</h1>",
        f'<p class="soft">Model <b>{escape(project.name)}</b>, judged on {scores.rows:,} rows it has never '
        "seen, "
        f"{escape(evaluation.start[:16])} to {escape(evaluation.end[:16])}; "
        f"{scores.positives / max(scores.rows, 1):.1%} of them are {escape(project.label.meaning)}. "
        "Ranges are 95 % bootstrap intervals.</p>",
        _facts(scores),
        _gates(gates),
        _splits(project, evaluation.splits),
        _champion(evaluation),
        _curves(project, evaluation),
        _probabilities(project, scores),
        _slices(scores),
        _provenance(evaluation, provenance or {}),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(project.name)}: report</title>\n<style>\n{_STYLE.read_text()}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _range(found: Interval, digits: int = 3) -> str:
    if found.low != found.low:
        return f"{found.value:.{digits}f}"
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def _facts(scores: Scores) -> str:
    cards = [
        f'<div class="fact"><span>{title}</span><b>{scores.metrics[name].value:.3f}</b>'
        f"<span>{_range(scores.metrics[name])}</span><span>{remark}</span></div>"
        for name, title, remark in _METRICS
    ]
    return f'<div class="facts">{"".join(cards)}</div>'


def _gates(gates: Sequence[GateResult]) -> str:
    if not gates:
        return ""
    marks = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive"}
    rows = [
        [
            f'<span class="verdict {gate.verdict}">{marks[gate.verdict]}</span>',
            escape(gate.gate),
            escape(gate.reason),
        ]
        for gate in gates
    ]
    stopped = [gate.gate for gate in gates if gate.verdict != "pass"]
    said = f"Stopped by {', '.join(stopped)}." if stopped else "Every gate was passed."
    return f"<h2>Gates</h2><p>{escape(said)}</p>" + _table(["Verdict", "Gate", "Why"], rows)


def _splits(project: Project, splits: Sequence[SplitScore]) -> str:
    if not splits:
        return ""
    rows = [
        [
            escape(item.title),
            f"{item.training_rows:,}",
            f"{item.test_rows:,}",
            f"{item.roc_auc.value:.3f}",
            _range(item.roc_auc),
        ]
        for item in splits
    ]
    rows += [[escape(item.title), "", "", f"{item.roc_auc:.3f}", "published"] for item in project.published]
    return (
        "<h2>Two ways to split</h2><p>The gates look at the time-ordered split: learn from the past, "
        "answer the future. A random split lets a model recognise the very days it is asked about, and "
        "promises what serving cannot keep.</p>"
        + _table(["Split", "Learned from", "Judged on", "ROC AUC", "Range"], rows, numbers=(1, 2, 3))
    )


def _champion(evaluation: Evaluation) -> str:
    against = evaluation.challenger.against_champion
    if not against:
        return f'<h2>Against the champion</h2><p class="soft">{escape(evaluation.champion_note)}</p>'
    rows = []
    for name, title, _ in _METRICS:
        found = against[name]
        better = found.difference.value > 0 if name.endswith("auc") else found.difference.value < 0
        certain = found.difference.low > 0 or found.difference.high < 0
        word = ("better" if better else "worse") if certain else "no certain difference"
        rows.append(
            [
                title,
                f"{found.champion:.4f}",
                f"{evaluation.challenger.metrics[name].value:.4f}",
                f"{found.difference.value:+.4f}",
                f"{found.difference.low:+.4f} to {found.difference.high:+.4f}",
                word,
            ]
        )
    table = _table(["Metric", "Champion", "This model", "Difference", "Range", ""], rows, numbers=(1, 2, 3))
    note = f"{escape(evaluation.champion_note)} Same rows, same resamples."
    return f"<h2>Against the champion</h2><p>{note}</p>{table}"


def _curves(project: Project, evaluation: Evaluation) -> str:
    ours, other = evaluation.challenger, evaluation.champion
    roc = Axes((0, 1), (0, 1), title="ROC curve")
    roc.frame(FRACTIONS, FRACTIONS, "share of the others called positive", "share of the positives found")
    roc.line([(0, 0), (1, 1)], "ideal")
    recall = Axes((0, 1), (0, 1), title="Precision and recall")
    recall.frame(
        FRACTIONS, FRACTIONS, "share of the positives found", "share of the called that are positive"
    )
    share = ours.positives / max(ours.rows, 1)
    recall.line([(0, share), (1, share)], "ideal")
    if other is not None:
        roc.line([(point.x, point.y) for point in other.roc], "other")
        recall.line([(point.x, point.y) for point in other.precision_recall], "other")
    roc.line([(point.x, point.y) for point in ours.roc], "ours")
    recall.line([(point.x, point.y) for point in ours.precision_recall], "ours")
    key = '<p class="soft key"><i style="background:var(--ours)"></i>this model'
    if other is not None:
        key += '<i style="background:var(--other)"></i>champion'
    key += '<i style="background:var(--soft)"></i>chance</p>'
    return (
        "<h2>Ranking</h2>"
        + key
        + _pair(
            (roc.svg(), "How many of the others are disturbed to find the positives."),
            (recall.svg(), f"How often “{escape(project.label.meaning)}” is true when the model says it."),
        )
    )


def _probabilities(project: Project, scores: Scores) -> str:
    chart = Axes((0, 1), (0, 1), title="Calibration")
    chart.frame(FRACTIONS, FRACTIONS, "probability that the model gave", "share that came true")
    most = max((item.rows for item in scores.calibration), default=1)
    width = 1 / 15
    for item in scores.calibration:
        low = int(item.said / width) * width
        chart.bar((low, low + width), 0.25 * item.rows / most, "share", f"{item.rows:,} rows")
    chart.line([(0, 0), (1, 1)], "ideal")
    shown = [item for item in scores.calibration if item.rows >= 20]
    chart.line([(item.said, item.was) for item in shown], "ours")
    for item in shown:
        chart.dot(item.said, chart.y(item.was), "ours", 3.5, f"said {item.said:.2f}, was {item.was:.2f}")

    highest = max((point.cost for point in scores.cost_curve), default=1.0)
    cost = Axes((0, 1), (0, highest * 1.05), title="Cost by threshold")
    cost.frame(FRACTIONS, ticks(0, highest * 1.05), "threshold", "cost a row")
    cost.line([(point.threshold, point.cost) for point in scores.cost_curve], "ours")
    words = "No threshold was set."
    at = scores.at_threshold
    if at is not None:
        cost.rule(at.threshold, "threshold", f"threshold {at.threshold:.3f}")
        found = at.true_positives / max(at.true_positives + at.false_negatives, 1)
        right = at.true_positives / max(at.true_positives + at.false_positives, 1)
        words = (
            f"The threshold was set before these rows were seen. At {at.threshold:.3f} it finds {found:.0%} "
            f"of the {project.label.meaning} and is right {right:.0%} of the time; a row costs "
            f"{at.cost:.3f}, where the best threshold in hindsight ({at.best_threshold:.3f}) costs "
            f"{at.best_cost:.3f}. A false alarm costs {project.costs.false_alarm:g}, a miss "
            f"{project.costs.miss:g}."
        )
    return f"<h2>Probabilities and decisions</h2><p>{escape(words)}</p>" + _pair(
        (chart.svg(), "On the diagonal, 30 % means 30 %. Bars: how many rows got such an answer."),
        (cost.svg(), "What mistakes cost, by where the line between yes and no is drawn."),
    )


def _slices(scores: Scores) -> str:
    if not scores.slices:
        return ""
    parts = ["<h2>Group by group</h2>"]
    for column in dict.fromkeys(item.column for item in scores.slices):
        rows = [
            Row(item.group, f"{item.rows:,}", found.value, found.low, found.high, item.champion_roc_auc)
            for item in scores.slices
            if item.column == column and (found := item.roc_auc)
        ]
        known = [edge for row in rows if row.low == row.low for edge in (row.low, row.high)] or [0.5, 1.0]
        low, high = max(0.0, min(*known, 0.5)), min(1.0, max(known) + 0.02)
        chart = dot_plot(
            rows,
            x_range=(low, high),
            x_label="ROC AUC",
            average=scores.metrics["roc_auc"].value,
            title=f"ROC AUC by {column}",
        )
        parts.append(
            f"<figure><figcaption>By {escape(column)}: ROC AUC and its range</figcaption>{chart}</figure>"
        )
    return "".join(parts)


def _provenance(evaluation: Evaluation, more: Mapping[str, str]) -> str:
    rows = [
        [escape(name), f"<code>{escape(value)}</code>"]
        for name, value in {**evaluation.made_from, **more}.items()
    ]
    return "<h2>Where it came from</h2>" + _table(["", ""], rows)


def _pair(*figures: tuple[str, str]) -> str:
    inside = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in figures)
    return f'<div class="pair">{inside}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if place in numbers else f"<{tag}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'
