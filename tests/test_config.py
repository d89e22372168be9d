"""The configuration: one tree, read from TOML, refused by field and with what is allowed; the form is cut from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bc_tasks.config import RunConfig
from bc_tasks.config_file import FORM_FIELDS, apply_form, build_config, form_schema, load_config, parse_settings
from bc_tasks.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "include" / "config"
FILES = sorted(FOLDER.glob("*.toml"))
BASE: dict[str, Any] = {"data_uri": "s3://images"}


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS = dict(_fields(RunConfig))


def _limits() -> Iterator[tuple[str, float, str]]:
    """Each numeric limit of each field, as a value just beyond it and the words that must tell of it."""
    for path, field in FIELDS.items():
        for limit in field.metadata:
            match limit:
                case Ge(ge=bound):
                    yield path, bound - 1, f"greater than or equal to {bound}"
                case Gt(gt=bound):
                    yield path, bound, f"greater than {bound}"
                case Le(le=bound):
                    yield path, bound + 1, f"less than or equal to {bound}"
                case Lt(lt=bound):
                    yield path, bound, f"less than {bound}"


def _refused(tree: dict[str, Any], **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(tree, overrides, source="night.toml")
    return str(caught.value)


def _with(path: str, value: Any) -> RunConfig:
    return build_config(BASE, {path: value}, source="night.toml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_accepted(path: Path) -> None:
    config = load_config(path)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_there_is_a_configuration_for_each_place_and_for_the_source_notebook() -> None:
    assert [path.stem for path in FILES] == ["kubernetes-cpu-trial", "laptop", "production", "source-notebook"]


def test_the_source_notebooks_recipe_is_kept() -> None:
    training = load_config(FOLDER / "source-notebook.toml").training
    assert training.backbones == ("convnext_tiny",)
    assert (training.image_size_px, training.batch_size, training.epochs) == (640, 80, 20)
    assert (training.learning_rate, training.min_learning_rate, training.weight_decay) == (1e-3, 1e-5, 1e-4)
    assert training.class_weights == (1.0, 1.5)
    assert training.augmentation.rotation_degrees == 20
    assert training.augmentation.rectangle_probability == 0.35
    assert (training.augmentation.rectangle_min_share, training.augmentation.rectangle_max_share) == (0.05, 0.15)


@pytest.mark.parametrize(("path", "value", "words"), list(_limits()))
def test_a_number_out_of_its_range_is_refused_with_its_path_and_what_is_allowed(
    path: str, value: float, words: str
) -> None:
    message = _refused(BASE, **{path: value})
    assert f"  {path}: " in message
    assert words in message
    assert repr(value) in message


@pytest.mark.parametrize("path", FIELDS)
def test_a_misspelt_key_is_refused_with_its_path_and_the_known_ones(path: str) -> None:
    message = _refused(BASE, **{f"{path}_": 1})
    assert f"  {path}_: unknown key; known here: " in message
    assert path.rpartition(".")[2] in message.partition("known here: ")[2].split(", ")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data_uri", "images", "'images' is no storage URI: write s3://bucket[/prefix] or file:///folder"),
        ("data_uri", "s3://images/", "without a final slash"),
        ("data_uri", "/images", "is no storage URI"),
        ("training.backbones", ["resnet51"], "'resnet50', 'resnet101'"),
        ("training.backbones", ["resnet50", "resnet50"], "once only"),
        ("training.backbones", [], "at least 1"),
        ("training.trainable_stages", "most", "'all'"),
        ("training.trainable_stages", -1, "0 or more"),
        ("training.class_weights", [1.0, 0.0], "above 0"),
        ("training.class_weights", [1.0], "Field required"),
        ("training.weights", "imagenet", "default|hub|package|none"),
        ("training.precision", "int8", "'bfloat16'"),
        ("training.min_learning_rate", 0.5, "must not exceed learning_rate"),
        ("training.augmentation.rectangle_min_share", 0.5, "must not exceed rectangle_max_share"),
        ("training.image_size_px", 1024, "must not exceed ingest.pixels.size_px (640)"),
        ("training", 5, "dictionary"),
        ("training.epochs", "many", "integer"),
        ("training.epochs", 2.5, "integer"),
        ("ingest.inbox_prefix", "inbox", "pattern"),
        ("ingest.inbox_prefix", "/inbox/", "pattern"),
        ("holdout.fingerprint", "abc", "pattern"),
        ("registry.model_name", "a/b", "pattern"),
        ("registry.champion_alias", "v1 final", "pattern"),
        ("schedule.cron", "", "at least 1"),
        ("execution.launcher", "ssh", "'subprocess'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_path_and_what_is_allowed(
    path: str, value: Any, words: str
) -> None:
    message = _refused(BASE, **{path: value})
    assert path.split(".", maxsplit=1)[0] in message or "the whole" in message
    assert words in message


def test_a_field_of_several_kinds_is_complained_of_once() -> None:
    (line,) = _refused(BASE, **{"training.trainable_stages": "most"}).splitlines()[1:]
    assert line.startswith("  training.trainable_stages: ")
    assert "integer" in line
    assert "'all'" in line


def test_all_complaints_come_at_once() -> None:
    message = _refused({"training": {"epoch": 3, "batch_size": 0}})
    assert message.splitlines()[0] == "night.toml is refused:"
    assert {line.split(":")[0].strip() for line in message.splitlines()[1:]} == {
        *("data_uri", "training.epoch", "training.batch_size"),
    }


def test_a_long_wrong_value_is_cut() -> None:
    assert len(_refused(BASE, **{"training.epochs": "x" * 10_000})) < 300


@pytest.mark.parametrize("path", ["data_uri.deeper", "training.epochs.deeper", "training.backbones.deeper"])
def test_an_override_below_a_value_is_refused_like_any_other(path: str) -> None:
    assert path.removesuffix(".deeper") in _refused(BASE, **{path: 3})


def test_an_override_leaves_what_it_was_given_untouched() -> None:
    tree = {"data_uri": "s3://images", "ingest": {"pixels": {"size_px": 640}}}
    assert build_config(tree, {"ingest.pixels.size_px": 512}, source="x").ingest.pixels.size_px == 512
    assert tree["ingest"] == {"pixels": {"size_px": 640}}


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        _with("training.epochs", 3).training.epochs = 4  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"data_uri = ", "is not TOML"), (b"data_uri = '\xff'", "is not TOML"), (None, "can't read the configuration")],
    ids=["cut off", "not UTF-8", "missing"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "night.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the configuration"):
        load_config(tmp_path)


def test_settings_of_the_command_line_are_spelt_as_in_toml_or_bare() -> None:
    assert parse_settings(
        ["training.epochs=3", "training.weights = none", 'training.backbones=["resnet50"]', "gate.dry_run=true"]
    ) == {
        "training.epochs": 3,
        "training.weights": "none",
        "training.backbones": ["resnet50"],
        "gate.dry_run": True,
    }


def test_a_setting_may_hold_an_equals_sign() -> None:
    assert parse_settings(["data_uri=s3://images/site=2"]) == {"data_uri": "s3://images/site=2"}


def test_what_is_no_setting_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match=r"'training.epochs' is no setting; write for example training.epochs=3"):
        parse_settings(["training.epochs"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_form_sent_as_it_stands_changes_nothing(path: Path) -> None:
    config = load_config(path)
    form = {name: schema["default"] for name, schema in form_schema(config).items()}
    assert apply_form(config, form) == config


@pytest.mark.parametrize("name", FORM_FIELDS)
def test_the_form_asks_what_the_model_asks(name: str) -> None:
    schema = form_schema(RunConfig(**BASE))[name]
    field = FIELDS[FORM_FIELDS[name]]
    assert schema.get("description") == field.description
    keys = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    limits = {(keys[name], getattr(limit, name)) for limit in field.metadata for name in keys if hasattr(limit, name)}
    assert limits <= schema.items()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"epoch": 3}, r"the trigger form has no field \['epoch'\]"),
        ({"epochs": 0}, "training.epochs: Input should be greater than or equal to 1, not 0"),
        ({"backbones": ["vgg16"]}, "training.backbones"),
        ({"image_size_px": 1024}, "must not exceed"),
    ],
)
def test_a_wrong_form_is_refused(form: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply_form(RunConfig(**BASE), form)
