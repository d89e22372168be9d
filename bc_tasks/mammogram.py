"""The words of the domain: views, laterality, labels, splits, and why an image is set aside."""

from enum import IntEnum, StrEnum


class Label(IntEnum):
    """What the biopsy or the follow-up said of an image."""

    NO_CANCER = 0
    CANCER = 1


class View(StrEnum):
    """The projection of a mammogram.

    Source: DICOM PS3.16, CID 4014 "View for Mammography", by its customary short names.
    """

    CC = "CC"
    MLO = "MLO"
    ML = "ML"
    LM = "LM"
    LMO = "LMO"
    AT = "AT"
    CV = "CV"
    FB = "FB"
    ISO = "ISO"
    SIO = "SIO"
    XCCL = "XCCL"
    XCCM = "XCCM"


class Laterality(StrEnum):
    """Which breast."""

    LEFT = "L"
    RIGHT = "R"


class Density(StrEnum):
    """Breast density, from almost entirely fatty to extremely dense.

    Source: ACR BI-RADS Atlas, 5th edition.
    """

    A = "A"
    B = "B"
    C = "C"
    D = "D"


class Split(StrEnum):
    """What an image may be used for; a patient is in one split only, for ever."""

    TRAINING = "training"
    TUNING = "tuning"
    HOLDOUT = "holdout"


class QuarantineReason(StrEnum):
    """Why an image is kept out of training; each is listed in the snapshot, none is dropped."""

    # Its place in the inbox, or its label.
    NO_LABEL = "no_label"
    BAD_LABEL = "bad_label"
    CONFLICTING_LABELS = "conflicting_labels"
    BAD_LABELS_FILE = "bad_labels_file"
    MISSING_IMAGE = "missing_image"
    PATH_OUTSIDE_BATCH = "path_outside_batch"
    NOT_IN_A_BATCH = "not_in_a_batch"
    # Its file.
    EMPTY_FILE = "empty_file"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    UNKNOWN_FORMAT = "unknown_format"
    WRONG_EXTENSION = "wrong_extension"
    ANIMATED = "animated"
    UNSUPPORTED_MODE = "unsupported_mode"
    NOT_GREY = "not_grey"
    TOO_SMALL = "too_small"
    # Compared with the other images.
    DUPLICATE_CONTENT = "duplicate_content"
    DUPLICATE_IMAGE_ID = "duplicate_image_id"
    # Leaks: with it, a model would learn what it is measured or tuned on.
    HOLDOUT_PATIENT = "holdout_patient"
    HOLDOUT_SOURCE = "holdout_source"
    HOLDOUT_PIXELS = "holdout_pixels"
    HOLDOUT_NEAR_COPY = "holdout_near_copy"
    SPLIT_NEAR_COPY = "split_near_copy"
    # Of a patient who was withdrawn: no fault of the image.
    WITHDRAWN_PATIENT = "withdrawn_patient"
    # Found by validation.
    FAILED_EXPECTATION = "failed_expectation"


DISGUISED_LEAKS = frozenset(
    {
        QuarantineReason.HOLDOUT_SOURCE,
        QuarantineReason.HOLDOUT_PIXELS,
        QuarantineReason.HOLDOUT_NEAR_COPY,
        QuarantineReason.SPLIT_NEAR_COPY,
    }
)
"""Pictures that are known already, under the name of somebody else."""

LEAKS = DISGUISED_LEAKS | {QuarantineReason.HOLDOUT_PATIENT}
"""All leaks; that a patient of the holdout comes again is routine."""
