"""validate: looks at tonight's data, sets bad images aside and commits the snapshot, or stops the night."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from bc_tasks import expectations, holdout, manifest, runs, snapshots, withdrawals, withholding
from bc_tasks.config import RunConfig
from bc_tasks.errors import ValidationFailed
from bc_tasks.expectations import Findings
from bc_tasks.expectations.scopes import NUM_NAMED, is_bad, is_new_leak, is_tonights
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.records import FAILED_VALIDATION, ExpectationOutcome, Leak, Leaks, Run, Snapshot, ValidationReport
from bc_tasks.storage import Storage, join

ABOUT_LEAKS = (
    "About the leaks: each shows a picture that is known already under somebody else's name, and is set aside, however "
    "this ends. Look at the pairs in the Data Docs. If they are one picture, ask the site how it came under a second "
    "name, and take the batch out or give all images of the patient the first name: to remove that picture alone frees "
    "the others. If they are two, or the site has mended its export since and the rest of the batch is right, raise "
    "validation.max_leak_share for one night: the leaks stay set aside. For holdout_source it is the file's name that "
    "is known, not the picture: where the site gives every patient's files the same names, let it rename them."
)
WHAT_TO_DO = (
    "What to do: mend the batch under {inbox_uri}, or take it out, and tell the site whose it is. The next night takes "
    "the inbox anew; this run stays as it is. Where the data is right and a limit wrong, change [validation] in the "
    "configuration."
)


def run(run_uri: str, *, storage: Storage) -> ValidationReport:
    """Check the candidate snapshot; quarantine what is bad, commit the rest, and write the record.

    Data Docs are stored under `<run_uri>/data-docs/` either way.

    Raises:
        ValidationFailed: an expectation about the whole is broken, or too many of tonight's images are bad or leaks.
        HoldoutChanged: the holdout isn't the one that was fixed.
    """
    if runs.exists(storage, run_uri, f"{ValidationReport.step}.json"):
        return runs.read(storage, run_uri, ValidationReport)
    config = runs.read(storage, run_uri, Run).config
    candidate = runs.read(storage, run_uri, Snapshot)
    frame = snapshots.read_manifest(storage, candidate)
    previous = _previous(storage, config, candidate, frame)
    findings, data_docs_uri = _check(storage, run_uri, config, frame, previous)
    judged = _set_aside(frame, findings.bad_rows)
    tonight = judged.assign(is_leak=is_new_leak(judged, previous))[is_tonights(frame, previous)]
    report = _report(candidate, findings, tonight, data_docs_uri)
    if any(outcome.severity == "table" and not outcome.passed for outcome in findings.outcomes):
        failed = report.model_dump_json(indent=1).encode()
        storage.write(join(run_uri, FAILED_VALIDATION), failed, content_type="application/json")
        raise ValidationFailed(_message(report, tonight, config))
    committed = snapshots.commit(storage, config.data_uri, report.snapshot, judged)
    report = report.model_copy(update={"snapshot": committed})
    runs.write(storage, run_uri, report)
    return report


def _previous(storage: Storage, config: RunConfig, candidate: Snapshot, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest that the candidate was compared with, without rows where it is the first.

    Patients who were withdrawn since are left out: their images are not lost, they were taken away on purpose.
    """
    if candidate.base_number is None:
        return manifest.empty()
    base = snapshots.by_number(storage, config.data_uri, candidate.base_number)
    withdrawn = withdrawals.known(storage, config.data_uri)
    return withholding.without_gone(snapshots.read_manifest(storage, base), frame, withdrawn)


def _check(
    storage: Storage, run_uri: str, config: RunConfig, frame: pd.DataFrame, previous: pd.DataFrame
) -> tuple[Findings, str]:
    fixed = holdout.load(storage, config.data_uri, config.holdout.fingerprint)
    with TemporaryDirectory() as folder:
        findings = expectations.check(
            frame,
            config=config.validation,
            previous=previous,
            holdout_patient_ids=fixed.patient_ids,
            holdout_source_stems=fixed.source_stems,
            docs_folder=Path(folder),
            title=f"The data of run {run_uri.rsplit('/', 1)[1]}",
            leaks=_leaks(storage, run_uri),
        )
        storage.upload_folder(Path(folder), join(run_uri, "data-docs"))
    return findings, join(run_uri, "data-docs", "index.html")


def _leaks(storage: Storage, run_uri: str) -> tuple[Leak, ...]:
    """Return the leaks that ingest has told of; a run that an older version has ingested tells of none."""
    if not runs.exists(storage, run_uri, Leaks.usual_name()):
        return ()
    return runs.read(storage, run_uri, Leaks).leaks


def _set_aside(frame: pd.DataFrame, bad_rows: Mapping[str, str]) -> pd.DataFrame:
    judged = frame.copy()
    is_bad = judged["key"].isin(bad_rows)
    judged.loc[is_bad, "quarantine_reason"] = QuarantineReason.FAILED_EXPECTATION.value
    judged.loc[is_bad, "quarantine_detail"] = judged.loc[is_bad, "key"].map(bad_rows)
    return judged


def _report(candidate: Snapshot, findings: Findings, tonight: pd.DataFrame, data_docs_uri: str) -> ValidationReport:
    reasons = tonight["quarantine_reason"].dropna()
    return ValidationReport(
        snapshot=candidate.model_copy(update={"quarantined_now": dict(sorted(Counter(reasons).items()))}),
        expectations=findings.outcomes,
        num_quarantined=len(findings.bad_rows),
        bad_share=float(is_bad(tonight).mean()) if len(tonight) else 0.0,
        leak_share=float(tonight["is_leak"].mean()) if len(tonight) else 0.0,
        data_docs_uri=data_docs_uri,
    )


def _message(report: ValidationReport, tonight: pd.DataFrame, config: RunConfig) -> str:
    """Return what the engineer on call needs: what is broken, in which batches and images, and what to do."""
    bad, leaks = tonight[is_bad(tonight)], tonight[tonight["is_leak"]]
    now = report.snapshot
    lines = [
        "the night stops here: nothing is trained on, and no snapshot was committed.",
        *(_broken(outcome) for outcome in report.expectations if not outcome.passed),
        f"Tonight: {now.num_new:,} new, {now.num_revised:,} revised, {now.num_withdrawn:,} withdrawn images.",
        f"Batches: {_counted(tonight['batch'])}.",
        f"Bad images: {_counted(bad['quarantine_reason'])}; by batch: {_counted(bad['batch'])}.",
        f"Leaks: {_counted(leaks['quarantine_reason'])}; by batch: {_counted(leaks['batch'])}.",
        f"Data Docs: {report.data_docs_uri}",
        *([ABOUT_LEAKS] if len(leaks) else []),
        WHAT_TO_DO.format(inbox_uri=f"{config.data_uri}/{config.ingest.inbox_prefix}"),
    ]
    return "\n".join(lines)


def _broken(outcome: ExpectationOutcome) -> str:
    return f"- {outcome.name}: wanted {outcome.wanted}; seen: {outcome.seen}"


def _counted(values: "pd.Series[str]") -> str:
    counts = [f"{value} ({count:,})" for value, count in values.value_counts().items()]
    more = [f"and {len(counts) - NUM_NAMED:,} more"] if len(counts) > NUM_NAMED else []
    return ", ".join([*counts[:NUM_NAMED], *more]) or "none"
