"""Data Docs as one page that needs nothing beside it.

The site that Great Expectations makes fetches scripts, styles and a logo from eight hosts: a closed network can't reach
them, and Airflow, which serves the page, should not run their scripts. So its tables go into a page of ours.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bc_tasks.expectations.scopes import Scope
from bc_tasks.mammogram import DISGUISED_LEAKS, QuarantineReason
from bc_tasks.records import ExpectationOutcome, Leak

Checked = tuple[ExpectationOutcome, Any]
"""What was seen, with Great Expectations' own result; None where there was nothing to look at."""


NUM_LEAKS = 50
"""How many leaks are shown one by one."""

LEAK_WORDS = {
    QuarantineReason.HOLDOUT_PIXELS: "the same picture, of the holdout",
    QuarantineReason.HOLDOUT_NEAR_COPY: "near copy, of the holdout",
    QuarantineReason.HOLDOUT_SOURCE: "the same source, of the holdout",
    QuarantineReason.SPLIT_NEAR_COPY: "near copy, across training and tuning",
}


def write(path: Path, title: str, checked: Mapping[Scope, Sequence[Checked]], leaks: Sequence[Leak]) -> None:
    """Write the page; `checked` has the outcomes of each scope, in the order of the page."""
    from great_expectations.render.view import DefaultJinjaPageView

    page = files("bc_tasks.expectations").joinpath("page.html").read_text(encoding="utf-8")
    template = DefaultJinjaPageView().env.from_string(page)
    outcomes = [outcome for group in checked.values() for outcome, _ in group]
    sections = [_section(scope, group).to_json_dict() for scope, group in checked.items()]
    disguised = [leak for leak in leaks if leak.reason in DISGUISED_LEAKS]
    reasons = Counter(leak.reason for leak in leaks)
    shown = {"leaks": disguised[:NUM_LEAKS], "num_leaks": len(disguised), "leak_words": LEAK_WORDS}
    counts = {
        "num_routine": reasons[QuarantineReason.HOLDOUT_PATIENT],
        "num_doubled_ids": reasons[QuarantineReason.DUPLICATE_IMAGE_ID],
        "num_learnt": sum(leak.was_learnt for leak in leaks),
    }
    text = template.render(title=title, outcomes=outcomes, sections=sections, **shown, **counts)
    path.write_text(text, encoding="utf-8")


def _section(scope: Scope, group: Sequence[Checked]) -> Any:
    from great_expectations.render import RenderedHeaderContent, RenderedSectionContent

    outcome, result = group[0]
    if result is None:
        sentence = html.escape(f"N{outcome.seen[1:]}.")
    elif scope.severity == "row":
        sentence = "A bad image is set aside; the night goes on while they are few."
    else:
        sentence = "The night stops where one of these is broken."
    header = RenderedHeaderContent(header=scope.title, subheader=sentence)
    return RenderedSectionContent(content_blocks=[header] if result is None else [header, _table(group)])


def _table(group: Sequence[Checked]) -> Any:
    """Let Great Expectations lay out its table, and put our sentences where it would show values of patients.

    It writes text into the page as it is: what comes from outside is escaped here. What raised an exception is shown
    as broken; its outcome says why.
    """
    from great_expectations.render.renderer.content_block import ValidationResultsTableContentBlockRenderer

    no_exception = {"raised_exception": False, "exception_message": None, "exception_traceback": None}
    for _, result in group:
        result.result, result.exception_info = {}, no_exception
    table = ValidationResultsTableContentBlockRenderer.render([result for _, result in group])
    table.header_row = ["", "Expected, and why", "Seen"]
    for row, (outcome, _) in zip(table.table, group, strict=True):
        named = f": {', '.join(outcome.image_ids)}" if outcome.image_ids else ""
        row[2] = html.escape(outcome.seen + named)
    return table
