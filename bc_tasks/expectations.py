"""What data must look like before anything is trained on it: one table, checked by Great Expectations.

Each expectation looks at a frame whose rows are the things it speaks of: images, patients, sites.
A bad image is set aside and the night goes on; what is wrong with the whole stops the night.
"""

import html
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import great_expectations as gx
import jinja2
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.row_conditions import Column
from great_expectations.render import RenderedDocumentContent, RenderedHeaderContent, RenderedSectionContent
from great_expectations.render.renderer.content_block import ValidationResultsTableContentBlockRenderer
from great_expectations.render.view import DefaultJinjaPageView

from bc_tasks import manifest
from bc_tasks.config import ValidationConfig
from bc_tasks.mammogram import Density, Label, Laterality, Split, View
from bc_tasks.records import ExpectationOutcome

NUM_NAMED = 10
"""How many bad things are named, in records and in Data Docs."""


@dataclass(frozen=True)
class Scope:
    """What the rows of a checked frame are; where one is bad, it is set aside ("row") or the night stops ("table")."""

    title: str
    things: str
    id_column: str
    severity: Literal["row", "table"] = "table"


MANIFEST = Scope("The manifest", "rows", "key")
IMAGE = Scope("Each image", "images", "image_id", severity="row")
SNAPSHOT = Scope("The snapshot as a whole", "images", "image_id")
SPLIT = Scope("Training and tuning", "splits", "split")
PATIENT = Scope("Each patient who is trained or tuned on", "patients", "patient_id")
CHANGE = Scope("Compared with the snapshot before", "images", "image_id")
SITE = Scope("Each site, compared with the snapshot before", "sites", "site_id")
MACHINE = Scope("Each machine, compared with the snapshot before", "machines", "machine_id")


@dataclass(frozen=True)
class Facts:
    """What expectations are made of; `previous` are the usable rows of the snapshot before, none for the first."""

    config: ValidationConfig
    previous: pd.DataFrame
    holdout_patient_ids: frozenset[str]
    holdout_source_stems: frozenset[str]

    @property
    def num_images_before(self) -> int:
        """How many usable images the snapshot before has."""
        return len(self.previous)

    @property
    def cancer_share_before(self) -> float:
        """Their share of cancer, 0 to 1; NaN where there are none."""
        return float(self.previous["label"].astype("float").mean())


@dataclass(frozen=True)
class Expectation:
    """A row of the table; `wanted` names values as `{config.min_images}` or `{facts.num_images_before}`."""

    name: str
    scope: Scope
    wanted: str
    why: str
    build: Callable[[Facts], gxe.Expectation]

    def wanted_of(self, facts: Facts) -> str:
        """Return the wanted sentence with its values filled in."""
        return self.wanted.format(config=facts.config, facts=facts)


def _known(column: str, wanted: str, why: str, scope: Scope = IMAGE) -> Expectation:
    return Expectation(f"{column}_known", scope, wanted, why, lambda _: gxe.ExpectColumnValuesToNotBeNull(column=column))


def _unique(column: str, wanted: str, why: str, scope: Scope = IMAGE) -> Expectation:
    return Expectation(f"{column}_unique", scope, wanted, why, lambda _: gxe.ExpectColumnValuesToBeUnique(column=column))


def _one_of(column: str, words: type[Label | View | Laterality | Density | Split], wanted: str, why: str) -> Expectation:
    values = [word.value for word in words]
    return Expectation(
        f"{column}_one_of",
        IMAGE,
        wanted,
        why,
        lambda _: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values),
    )


EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation(
        "columns",
        MANIFEST,
        "exactly the manifest's columns, in their order",
        "Every later step reads columns by name; one that is missing would be read as nothing known.",
        lambda _: gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(manifest.COLUMN_NAMES)),
    ),
    _known(
        "key",
        "every row has an object key",
        "Without its key a row can't be traced to an object of the inbox, nor be set aside.",
        MANIFEST,
    ),
    _unique(
        "key", "no two rows share an object key", "One object is one image; two rows for it count it twice.", MANIFEST
    ),
    _known("label", "every image has a label", "An image without a label teaches nothing and can't be scored."),
    _known("patient_id", "every image has a patient", "Splits are by patient; nobody's image could be on both sides."),
    _known("image_id", "every image has an id", "Scores, reports and this page name images by their id."),
    _known("sha256", "every image has the digest of its bytes", "It ties the row to the very bytes that were read."),
    _known(
        "pixel_sha256",
        "every image was decoded: it has the digest of its pixels",
        "What isn't decoded has no pixels, and can't be trained on.",
    ),
    _known("split", "every image has a split", "An image without a split would be left out and nobody would know."),
    _known("shard_key", "every image's pixels lie in a shard", "Training reads pixels from shards only."),
    _known("shard_row", "every image has its row in the shard", "Without it, training would read another image."),
    _one_of(
        "label",
        Label,
        "labels are 0 (no cancer) or 1 (cancer)",
        "Another number is a mistake of the export, and the loss would take it for a class of its own.",
    ),
    _one_of(
        "view",
        View,
        f"views are {', '.join(View)}, or unknown",
        "A misspelt view makes a group of its own, which results by view then miss.",
    ),
    _one_of(
        "laterality", Laterality, "lateralities are L, R, or unknown", "Anything else hides which breast was imaged."
    ),
    _one_of(
        "density",
        Density,
        "densities are A, B, C, D, or unknown",
        "Dense breasts are the hard cases; results by density need BI-RADS words, not another scale's.",
    ),
    _one_of("split", Split, "splits are training, tuning or holdout", "There are no others; training would skip it."),
    _unique("image_id", "no two images share an id", "Scores are joined by id; two images under one would be mixed up."),
    _unique("sha256", "no two images are the same file", "A copy counts twice, and under two patients it leaks."),
    _unique(
        "pixel_sha256",
        "no two images have the same pixels",
        "A file saved anew has another digest but shows the same; under two patients it leaks just as well.",
    ),
    Expectation(
        "source_width_enough",
        IMAGE,
        "at least {config.min_source_px} px wide as delivered",
        "A thumbnail has lost the calcifications that a model must see.",
        lambda f: gxe.ExpectColumnValuesToBeBetween(column="source_width_px", min_value=f.config.min_source_px),
    ),
    Expectation(
        "source_height_enough",
        IMAGE,
        "at least {config.min_source_px} px high as delivered",
        "A thumbnail has lost the calcifications that a model must see.",
        lambda f: gxe.ExpectColumnValuesToBeBetween(column="source_height_px", min_value=f.config.min_source_px),
    ),
    Expectation(
        "grey_min_in_range",
        IMAGE,
        "the darkest grey value is 0 to 255",
        "Pixels are stored in 8 bits; another value is not of the pixels that training sees.",
        lambda _: gxe.ExpectColumnValuesToBeBetween(column="grey_min", min_value=0, max_value=255),
    ),
    Expectation(
        "grey_max_in_range",
        IMAGE,
        "the brightest grey value is 0 to 255",
        "Pixels are stored in 8 bits; another value is not of the pixels that training sees.",
        lambda _: gxe.ExpectColumnValuesToBeBetween(column="grey_max", min_value=0, max_value=255),
    ),
    Expectation(
        "not_constant",
        IMAGE,
        "grey values have a standard deviation of at least {config.min_grey_std:g}",
        "A constant image is an empty exposure, or a decoding that went wrong.",
        lambda f: gxe.ExpectColumnValuesToBeBetween(column="grey_std", min_value=f.config.min_grey_std),
    ),
    Expectation(
        "not_black",
        IMAGE,
        "at most {config.max_black_share:.1%} of the pixels are black",
        "An image that is all background shows no breast.",
        lambda f: gxe.ExpectColumnValuesToBeBetween(column="black_share", max_value=f.config.max_black_share),
    ),
    Expectation(
        "age_plausible",
        IMAGE,
        "ages are {config.min_age_years:g} to {config.max_age_years:g} years, or unknown",
        "Other ages are slips of the keyboard, or a year of birth in the wrong field.",
        lambda f: gxe.ExpectColumnValuesToBeBetween(
            column="age", min_value=f.config.min_age_years, max_value=f.config.max_age_years
        ),
    ),
    Expectation(
        "source_not_in_holdout",
        IMAGE,
        "no image for training or tuning comes from a source image of the holdout",
        "The same exposure under another patient's name would teach a model what it is measured on.",
        lambda f: gxe.ExpectColumnValuesToNotBeInSet(
            column="source_stem",
            value_set=sorted(f.holdout_source_stems),
            row_condition=Column("split") != Split.HOLDOUT.value,
        ),
    ),
    Expectation(
        "num_images",
        SNAPSHOT,
        "at least {config.min_images:,} usable images",
        "Fewer teach nothing; and where there are none, most other expectations hold without saying anything.",
        lambda f: gxe.ExpectTableRowCountToBeBetween(min_value=f.config.min_images),
    ),
    Expectation(
        "class_balance",
        SNAPSHOT,
        "each label has at least {config.min_class_share:.1%} of the images",
        "With next to nothing of a label, its recall or specificity is chance.",
        lambda f: gxe.ExpectColumnMeanToBeBetween(
            column="label", min_value=f.config.min_class_share, max_value=1 - f.config.min_class_share
        ),
    ),
    Expectation(
        "cancer_in_splits",
        SPLIT,
        "both training and tuning have images with cancer",
        "Training can't learn what it never sees; tuning can't fit an operating point without it.",
        lambda _: gxe.ExpectColumnValuesToBeBetween(column="num_cancer", min_value=1),
    ),
    Expectation(
        "no_cancer_in_splits",
        SPLIT,
        "both training and tuning have images without cancer",
        "Training can't learn what it never sees; tuning can't fit an operating point without it.",
        lambda _: gxe.ExpectColumnValuesToBeBetween(column="num_no_cancer", min_value=1),
    ),
    Expectation(
        "patient_not_in_holdout",
        PATIENT,
        "no patient of the holdout is trained or tuned on",
        "A model that knows the patient scores better than it would on the next one; the gate would be fooled.",
        lambda f: gxe.ExpectColumnValuesToNotBeInSet(column="patient_id", value_set=sorted(f.holdout_patient_ids)),
    ),
    Expectation(
        "patient_in_one_split",
        PATIENT,
        "all images of a patient are in one split",
        "The two breasts of one patient are alike; on both sides they make the tuning score too good.",
        lambda _: gxe.ExpectColumnValuesToBeBetween(column="num_splits", max_value=1),
    ),
    Expectation(
        "not_shrunk",
        CHANGE,
        "at least {config.min_shrink_ratio:.1%} of the {facts.num_images_before:,} images before",
        "Images that vanish at once are a wrong prefix, a lost batch or a purge, not progress.",
        lambda f: gxe.ExpectTableRowCountToBeBetween(min_value=f.config.min_shrink_ratio * f.num_images_before),
    ),
    Expectation(
        "cancer_share_steady",
        CHANGE,
        "a share of cancer within {config.max_class_share_change:.1%} of the {facts.cancer_share_before:.1%} before",
        "A jump is mostly a labelling mistake: swapped folders, or an export of positives only.",
        lambda f: gxe.ExpectColumnMeanToBeBetween(
            column="label",
            min_value=f.cancer_share_before - f.config.max_class_share_change,
            max_value=f.cancer_share_before + f.config.max_class_share_change,
        ),
    ),
    Expectation(
        "site_shares_steady",
        SITE,
        "each site's share of the images changes by at most {config.max_site_share_change:.1%}",
        "Sites differ so much that a model of one does poorly at another; a jump makes nights incomparable.",
        lambda f: _change_within(f.config.max_site_share_change),
    ),
    Expectation(
        "machine_shares_steady",
        MACHINE,
        "each machine's share of the images changes by at most {config.max_machine_share_change:.1%}",
        "Machines leave their mark on every image; a jump is a new machine, or a feed that broke.",
        lambda f: _change_within(f.config.max_machine_share_change),
    ),
)
"""The table. A new expectation is a row here, and a corrupted candidate in the test of the table."""


def _change_within(band: float) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column="change", min_value=-band, max_value=band)


@dataclass(frozen=True)
class Findings:
    """What was seen; `bad_rows` says of each image to set aside, by its key, what is wrong with it."""

    outcomes: tuple[ExpectationOutcome, ...]
    bad_rows: Mapping[str, str]


@dataclass(frozen=True)
class _Checked:
    """An expectation and what was seen; `result` is Great Expectations' own, None where there was nothing to check."""

    expectation: Expectation
    outcome: ExpectationOutcome
    result: Any
    bad: pd.DataFrame


def check(
    candidate: pd.DataFrame,
    *,
    config: ValidationConfig,
    previous: pd.DataFrame | None,
    holdout_patient_ids: frozenset[str],
    holdout_source_stems: frozenset[str],
    docs_folder: Path,
    title: str,
) -> Findings:
    """Check a candidate's usable rows and write what was seen to `docs_folder / "index.html"`.

    Images are checked one by one first; the whole is then checked without the bad ones. If the manifest itself
    is malformed, nothing else is looked at.
    """
    before = manifest.empty() if previous is None else manifest.usable(previous)
    facts = Facts(config, before, holdout_patient_ids, holdout_source_stems)
    context = _context()
    checked = _check(context, MANIFEST, candidate, facts)
    bad_rows: dict[str, str] = {}
    if all(one.outcome.passed for one in checked):
        images = manifest.usable(candidate)
        checked += _check(context, IMAGE, images, facts)
        bad_rows = _bad_rows(checked)
        rest = images[~images["key"].isin(bad_rows)].reset_index(drop=True)
        for scope, frame in _frames(rest, facts).items():
            checked += _check(context, scope, frame, facts)
    _write_docs(docs_folder, title, checked)
    return Findings(tuple(one.outcome for one in checked), bad_rows)


def _context() -> Any:
    """Return a context of Great Expectations that lives in memory, calls nobody and draws no progress bars."""
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def _frames(images: pd.DataFrame, facts: Facts) -> dict[Scope, pd.DataFrame | str]:
    """Return what the whole is judged by: a frame for each scope, or why there is nothing to judge."""
    first = "there is no snapshot before this one"
    return {
        SNAPSHOT: images,
        SPLIT: _labels_by_split(images),
        PATIENT: _patients(images),
        CHANGE: first if facts.previous.empty else images,
        SITE: first if facts.previous.empty else _shares(facts.previous, images, SITE),
        MACHINE: first if facts.previous.empty else _shares(facts.previous, images, MACHINE),
    }


def _labels_by_split(images: pd.DataFrame) -> pd.DataFrame:
    splits = [Split.TRAINING.value, Split.TUNING.value]
    counts = pd.crosstab(images["split"], images["label"]).reindex(index=splits, columns=list(Label), fill_value=0)
    return pd.DataFrame({"split": splits, "num_no_cancer": counts[0].tolist(), "num_cancer": counts[1].tolist()})


def _patients(images: pd.DataFrame) -> pd.DataFrame:
    learnt_from = images.loc[images["split"] != Split.HOLDOUT.value, "patient_id"].unique()
    num_splits = images.groupby("patient_id")["split"].nunique()
    return num_splits[learnt_from].rename("num_splits").reset_index()


def _shares(before: pd.DataFrame, now: pd.DataFrame, scope: Scope) -> pd.DataFrame | str:
    """Return each site's or machine's change of share, -1 to 1; images where it is unknown count as one of their own."""
    column = scope.id_column
    if before[column].isna().all() or now[column].isna().all():
        return f"no image here, or none of the snapshot before, names its {column}"
    shares = [frame[column].fillna("unknown").value_counts(normalize=True) for frame in (before, now)]
    joined = pd.concat(shares, axis=1, keys=["before", "now"]).astype("float").fillna(0.0)
    return (joined["now"] - joined["before"]).rename("change").rename_axis(column).reset_index()


def _check(context: Any, scope: Scope, frame: pd.DataFrame | str, facts: Facts) -> list[_Checked]:
    """Let Great Expectations look at a frame; a string says why there is nothing to look at."""
    table = [expectation for expectation in EXPECTATIONS if expectation.scope == scope]
    if isinstance(frame, str):
        return [_Checked(entry, _not_checked(entry, frame, facts), None, pd.DataFrame()) for entry in table]
    suite = context.suites.add(gx.ExpectationSuite(scope.title, [_built(entry, facts) for entry in table]))
    asset = context.data_sources.add_pandas(scope.title).add_dataframe_asset(scope.things)
    batches = asset.add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=scope.title, data=batches, suite=suite))
    report = definition.run(
        batch_parameters={"dataframe": frame},
        # Indices without values: those may be a patient's, and a bad batch has thousands.
        result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True},
    )
    results = {result.expectation_config.meta["name"]: result for result in report.results}
    return [_judge(entry, results[entry.name], frame, facts) for entry in table]


def _built(entry: Expectation, facts: Facts) -> gxe.Expectation:
    built = entry.build(facts)
    built.meta = {"name": entry.name}
    built.description = f"{entry.wanted_of(facts)}\n{entry.why}"
    built.severity = "warning" if entry.scope.severity == "row" else "critical"
    return built


def _not_checked(entry: Expectation, reason: str, facts: Facts) -> ExpectationOutcome:
    return ExpectationOutcome(
        name=entry.name,
        passed=True,
        severity=entry.scope.severity,
        seen=f"not checked: {reason}",
        wanted=entry.wanted_of(facts),
        why=entry.why,
        num_unexpected=0,
        image_ids=(),
    )


def _judge(entry: Expectation, result: Any, frame: pd.DataFrame, facts: Facts) -> _Checked:
    bad = frame.loc[result.result.get("unexpected_index_list", [])]
    names = _names(entry.scope, bad)
    outcome = ExpectationOutcome(
        name=entry.name,
        passed=result.success,
        severity=entry.scope.severity,
        seen=_seen(entry.scope, result, names),
        wanted=entry.wanted_of(facts),
        why=entry.why,
        num_unexpected=len(bad),
        image_ids=tuple(names) if entry.scope == IMAGE else (),
    )
    return _Checked(entry, outcome, _compact(result, outcome.seen, names), bad)


def _names(scope: Scope, rows: pd.DataFrame) -> list[str]:
    """Return what the first bad things are called; an image without an id is called by its key."""
    names = rows[scope.id_column].fillna(rows["key"] if "key" in rows else "")
    return [str(name) for name in names.head(NUM_NAMED)]


def _seen(scope: Scope, result: Any, names: list[str]) -> str:
    what = result.result
    if "element_count" in what:
        total, num_bad = what["element_count"], what["unexpected_count"]
        named = "" if scope == IMAGE or not names else f": {', '.join(names)}"
        return f"not so in {num_bad:,} of {total:,} {scope.things}{named}" if num_bad else f"so in all {total:,}"
    if "observed_value" not in what:
        return f"Great Expectations could not tell: {_problem(result.exception_info)}"
    observed = what["observed_value"]
    if isinstance(observed, list):
        return _columns_seen(observed)
    if isinstance(observed, int):
        return f"{observed:,} images"
    return "no image" if observed is None else f"{observed:.1%} cancer"


def _columns_seen(columns: list[str]) -> str:
    differ = [f"without {name}" for name in manifest.COLUMN_NAMES if name not in columns]
    differ += [f"with {name}" for name in columns if name not in manifest.COLUMN_NAMES]
    return ", ".join([f"{len(columns)} columns", *differ[:NUM_NAMED]])


def _problem(exception_info: Mapping[str, Any]) -> str:
    """Return the message of the first exception; it lies flat, or under the metric that raised it."""
    info = exception_info if "exception_message" in exception_info else next(iter(exception_info.values()))
    return str(info["exception_message"])


def _bad_rows(checked: list[_Checked]) -> dict[str, str]:
    """Return for each bad image's key what is wrong with it, every expectation that it breaks."""
    details: dict[str, list[str]] = defaultdict(list)
    for one in checked:
        if one.expectation.scope == IMAGE:
            column = one.result.expectation_config.kwargs["column"]
            for key, value in zip(one.bad["key"], one.bad[column], strict=True):
                seen = "unknown" if pd.isna(value) else value
                details[key].append(f"{column} is {seen}; wanted: {one.outcome.wanted}")
    return {key: " | ".join(texts) for key, texts in details.items()}


def _compact(result: Any, seen: str, names: list[str]) -> Any:
    """Let a result keep what Data Docs show: counts, and the first bad things by name instead of their values.

    Data Docs put text into the page as it is, so what comes from outside is escaped here.
    """
    kept = ("element_count", "unexpected_count", "unexpected_percent")
    result.result = {name: result.result[name] for name in kept if name in result.result}
    result.result["observed_value"] = html.escape(seen)
    result.result["partial_unexpected_list"] = [html.escape(name) for name in names]
    return result


def _write_docs(folder: Path, title: str, checked: list[_Checked]) -> None:
    """Render one page that needs nothing beside it.

    Great Expectations' own site fetches styles and scripts from eight hosts, which a closed network can't reach,
    and a page behind a presigned link can't follow links. So its tables go into a page of ours.
    """
    by_scope: dict[Scope, list[_Checked]] = defaultdict(list)
    for one in checked:
        by_scope[one.expectation.scope].append(one)
    document = RenderedDocumentContent(
        renderer_type="ValidationResultsPageRenderer",
        page_title=html.escape(title),
        sections=[_section(scope, group) for scope, group in by_scope.items()],
        utm_medium="",
    )
    view = DefaultJinjaPageView()
    page = files("bc_tasks").joinpath("data_docs.html").read_text(encoding="utf-8")
    view.env.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"page.j2": page}), view.env.loader])
    folder.mkdir(parents=True, exist_ok=True)
    text = view.render(document, broken=[one.outcome for one in checked if not one.outcome.passed])
    (folder / "index.html").write_text(text, encoding="utf-8")


def _section(scope: Scope, group: list[_Checked]) -> RenderedSectionContent:
    results = [one.result for one in group if one.result is not None]
    header = RenderedHeaderContent(header=scope.title, subheader=_consequence(scope, group))
    table = [ValidationResultsTableContentBlockRenderer.render(results, include_column_name=False)] if results else []
    return RenderedSectionContent(section_name=scope.title, content_blocks=[header, *table])


def _consequence(scope: Scope, group: list[_Checked]) -> str:
    if group[0].result is None:
        return f"N{group[0].outcome.seen[1:]}."
    return "A bad image is set aside." if scope.severity == "row" else "The night stops where one of these is broken."
