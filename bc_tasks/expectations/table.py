"""The one table of expectations, each with its why; a new one is a row here and a corrupted candidate in the tests."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.expectations.row_conditions import Column

from bc_tasks import manifest
from bc_tasks.config import ValidationConfig
from bc_tasks.expectations.scopes import (
    CHANGE,
    IMAGE,
    MACHINE,
    MANIFEST,
    NIGHT,
    PATIENT,
    SITE,
    SNAPSHOT,
    SPLIT,
    Scope,
)
from bc_tasks.mammogram import Density, Label, Laterality, Split, View


@dataclass(frozen=True)
class Facts:
    """What expectations are made of; `previous` are the usable rows of the snapshot before, none for the first."""

    config: ValidationConfig
    previous: pd.DataFrame
    holdout_patient_ids: frozenset[str]
    holdout_source_stems: frozenset[str]

    @property
    def min_images_now(self) -> int:
        """How many images there must be, so that the snapshot has not shrunk; rounding of the product costs none."""
        return math.ceil(self.config.min_shrink_ratio * len(self.previous) - 1e-9)

    @property
    def cancer_share_before(self) -> float:
        """The share of cancer in the snapshot before, 0 to 1."""
        return float(self.previous["label"].astype("float").mean())


@dataclass(frozen=True)
class Expectation:
    """A row of the table; `wanted` names the configuration's values, e.g. `{min_images:,}`."""

    name: str
    scope: Scope
    wanted: str
    why: str
    build: Callable[[Facts], gxe.Expectation]

    def wanted_of(self, facts: Facts) -> str:
        """Return the wanted sentence with its values filled in."""
        return self.wanted.format_map(facts.config.model_dump())


def _known(column: str, wanted: str, why: str, scope: Scope = IMAGE) -> Expectation:
    return Expectation(
        f"{column}_known", scope, wanted, why, lambda _: gxe.ExpectColumnValuesToNotBeNull(column=column)
    )


def _unique(column: str, wanted: str, why: str, scope: Scope = IMAGE) -> Expectation:
    return Expectation(
        f"{column}_unique", scope, wanted, why, lambda _: gxe.ExpectColumnValuesToBeUnique(column=column)
    )


def _one_of(
    column: str, words: type[Label | View | Laterality | Density | Split], wanted: str, why: str
) -> Expectation:
    def build(_: Facts) -> gxe.Expectation:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[word.value for word in words])

    return Expectation(f"{column}_one_of", IMAGE, wanted, why, build)


def _between(
    name: str,
    scope: Scope,
    column: str,
    wanted: str,
    why: str,
    bounds: Callable[[Facts], tuple[float | None, float | None]],
) -> Expectation:
    def build(facts: Facts) -> gxe.Expectation:
        low, high = bounds(facts)
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)

    return Expectation(name, scope, wanted, why, build)


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
    Expectation(
        "patient_not_in_holdout",
        PATIENT,
        "no patient of the holdout is trained or tuned on",
        "A model that knows the patient scores better than it would on the next one; the gate would be fooled.",
        lambda f: gxe.ExpectColumnValuesToNotBeInSet(column="patient_id", value_set=sorted(f.holdout_patient_ids)),
    ),
    _between(
        "patient_in_one_split",
        PATIENT,
        "num_splits",
        "all images of a patient are in one split",
        "The two breasts of one patient are alike; on both sides they make the tuning score too good.",
        lambda _: (None, 1),
    ),
    _known("label", "every image has a label", "An image without a label teaches nothing and can't be scored."),
    _known(
        "patient_id",
        "every image has a patient",
        "Splits are by patient; an image of nobody could land on either side.",
    ),
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
    _unique(
        "image_id", "no two images share an id", "Scores are joined by id; two images under one would be mixed up."
    ),
    _unique("sha256", "no two images are the same file", "A copy counts twice, and under two patients it leaks."),
    _unique(
        "pixel_sha256",
        "no two images have the same pixels",
        "A file saved anew has another digest but shows the same; under two patients it leaks just as well.",
    ),
    _between(
        "source_width_enough",
        IMAGE,
        "source_width_px",
        "at least {min_source_px} px wide as delivered",
        "A thumbnail has lost the calcifications that a model must see.",
        lambda f: (f.config.min_source_px, None),
    ),
    _between(
        "source_height_enough",
        IMAGE,
        "source_height_px",
        "at least {min_source_px} px high as delivered",
        "A thumbnail has lost the calcifications that a model must see.",
        lambda f: (f.config.min_source_px, None),
    ),
    _between(
        "grey_min_in_range",
        IMAGE,
        "grey_min",
        "the darkest grey value is 0 to 255",
        "Pixels are stored in 8 bits; another value is not of the pixels that training sees.",
        lambda _: (0, 255),
    ),
    _between(
        "grey_max_in_range",
        IMAGE,
        "grey_max",
        "the brightest grey value is 0 to 255",
        "Pixels are stored in 8 bits; another value is not of the pixels that training sees.",
        lambda _: (0, 255),
    ),
    _between(
        "not_constant",
        IMAGE,
        "grey_std",
        "grey values have a standard deviation of at least {min_grey_std:g}",
        "A constant image is an empty exposure, or a decoding that went wrong.",
        lambda f: (f.config.min_grey_std, None),
    ),
    _between(
        "not_black",
        IMAGE,
        "black_share",
        "at most {max_black_share:.1%} of the pixels are black",
        "An image that is all background shows no breast.",
        lambda f: (None, f.config.max_black_share),
    ),
    _between(
        "age_plausible",
        IMAGE,
        "age",
        "ages are {min_age_years:g} to {max_age_years:g} years, or unknown",
        "Other ages are slips of the keyboard, or a year of birth in the wrong field.",
        lambda f: (f.config.min_age_years, f.config.max_age_years),
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
        "at least {min_images:,} usable images",
        "Fewer teach nothing; and where there are none, most other expectations hold without saying anything.",
        lambda f: gxe.ExpectTableRowCountToBeBetween(min_value=f.config.min_images),
    ),
    Expectation(
        "class_balance",
        SNAPSHOT,
        "each label has at least {min_class_share:.1%} of the images",
        "With next to nothing of a label, its recall or specificity is chance.",
        lambda f: gxe.ExpectColumnMeanToBeBetween(
            column="label", min_value=f.config.min_class_share, max_value=1 - f.config.min_class_share
        ),
    ),
    _between(
        "cancer_in_splits",
        SPLIT,
        "num_cancer",
        "both training and tuning have images with cancer",
        "Training can't learn what it never sees; tuning can't fit an operating point without it.",
        lambda _: (1, None),
    ),
    _between(
        "no_cancer_in_splits",
        SPLIT,
        "num_no_cancer",
        "both training and tuning have images without cancer",
        "Training can't learn what it never sees; tuning can't fit an operating point without it.",
        lambda _: (1, None),
    ),
    Expectation(
        "not_shrunk",
        CHANGE,
        "at least {min_shrink_ratio:.1%} as many images as before",
        "Images that vanish at once are a wrong prefix, a lost batch or a purge, not progress.",
        lambda f: gxe.ExpectTableRowCountToBeBetween(min_value=f.min_images_now),
    ),
    Expectation(
        "cancer_share_steady",
        CHANGE,
        "a share of cancer that differs from the one before by at most {max_class_share_change:.1%}",
        "A jump is mostly a labelling mistake: swapped folders, or an export of positives only.",
        lambda f: gxe.ExpectColumnMeanToBeBetween(
            column="label",
            min_value=f.cancer_share_before - f.config.max_class_share_change,
            max_value=f.cancer_share_before + f.config.max_class_share_change,
        ),
    ),
    _between(
        "site_shares_steady",
        SITE,
        "change",
        "each site's share of the images changes by at most {max_site_share_change:.1%}",
        "Sites differ so much that a model of one does poorly at another; a jump makes nights incomparable.",
        lambda f: (-f.config.max_site_share_change, f.config.max_site_share_change),
    ),
    _between(
        "machine_shares_steady",
        MACHINE,
        "change",
        "each machine's share of the images changes by at most {max_machine_share_change:.1%}",
        "Machines leave their mark on every image; a jump is a new machine, or a feed that broke.",
        lambda f: (-f.config.max_machine_share_change, f.config.max_machine_share_change),
    ),
    Expectation(
        "few_bad",
        NIGHT,
        "the new and revised images are sound, but for {max_bad_share:.1%} of them",
        "One that can't be read or breaks an expectation is set aside; where many are, the batch itself is broken. "
        "A copy of a picture that is there already doesn't count.",
        lambda f: gxe.ExpectColumnValuesToBeInSet(
            column="is_bad", value_set=[False], mostly=max(0.0, 1 - f.config.max_bad_share - 1e-9)
        ),
    ),
    Expectation(
        "few_leaks",
        NIGHT,
        "the new and revised images are no known pictures under other names, but for {max_leak_share:.1%} of them",
        "A picture of the holdout, or of the other of training and tuning, under another name is set aside. Where many "
        "come at once, a known export is back under new names, and what it changed too much may go unseen.",
        lambda f: gxe.ExpectColumnValuesToBeInSet(
            column="is_leak", value_set=[False], mostly=max(0.0, 1 - f.config.max_leak_share - 1e-9)
        ),
    ),
)
