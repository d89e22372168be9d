"""What `bc where-used` shows: sentences, and two tables whose first row is their header. Pure."""

from bc_tasks.proof.where_used import Uses

Table = list[tuple[str, ...]]


def sentences(uses: Uses) -> tuple[str, ...]:
    """Return what to read first."""
    if not uses.is_known:
        first = f"{uses.patient_id} is in no committed snapshot, and not in the holdout."
    else:
        used = [one for one in uses.snapshots if one.num_images]
        held = f"{len(used)} of {len(uses.snapshots)} snapshots that list them use images of {uses.patient_id}"
        saw = f"registered versions that saw them: {', '.join(uses.versions) or 'none'}"
        first = f"{held}; {saw}."
    rest = []
    if names := sorted({one.name for one in uses.under_other_names if one.num_images}):
        rest.append(f"Pictures of theirs were used under the name {', '.join(names)} too.")
    if uses.num_of_others:
        rest.append(
            f"{uses.num_of_others} pictures that were theirs once are another patient's by the last snapshot or the "
            "holdout: under other names these were not looked for."
        )
    if uses.holdout is not None:
        rest.append(f"{uses.holdout.num_images} of their images are in the holdout: every evaluation measures on them.")
    if (one := uses.withdrawal) is not None:
        rest.append(f"Withdrawn {one.withdrawn_at:%Y-%m-%d %H:%M} UTC by {one.withdrawn_by}: {one.reason}")
    return (first, *rest)


def snapshots(uses: Uses) -> Table:
    """Return the snapshots that list the patient, under whatever name, the latest first."""
    listed = (one for one in (*uses.snapshots, *uses.under_other_names) if one.number is not None)
    rows = [
        (str(one.number), one.name, one.split, str(one.num_images), str(one.num_quarantined), str(one.num_held_back))
        for one in sorted(listed, key=lambda one: -(one.number or 0))
    ]
    return [("snapshot", "under the name", "split", "images used", "quarantined", "held back"), *rows]


def models(uses: Uses) -> Table:
    """Return the models that saw the patient, registered ones first."""
    ordered = sorted(uses.models, key=lambda model: (model.version is None, -int(model.version or 0), model.run_uri))
    rows = [(one.run_uri.rsplit("/", 1)[1], one.backbone or "", one.use, one.outcome) for one in ordered]
    return [("run", "backbone", "what it did", "outcome"), *rows]
