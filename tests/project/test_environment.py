"""Environment variables become typed values, or one clear error that names the variable."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.environment import Environment


@dataclass
class Shape:
    a_text: str = ""
    a_flag: bool = False
    a_number: int = 0
    a_length: float = 0.0
    some_words: tuple[str, ...] = ()
    a_moment: datetime | None = None
    a_secret: str = ""


def values_of(**variables: str) -> dict[str, object]:
    return Environment(variables).fields_of(Shape, prefix="X_", secrets={"a_secret"}, skip=set())


def test_what_is_not_set_is_left_to_the_default():
    assert values_of() == {}


def test_fields_get_values_of_their_types():
    assert values_of(
        X_A_TEXT=" word ",
        X_A_FLAG="yes",
        X_A_NUMBER="-3",
        X_A_LENGTH="0.5",
        X_SOME_WORDS="a, b  c",
        X_A_MOMENT="2030-01-31T12:00:00Z",
        X_A_SECRET="a long random value",
    ) == {
        "A_TEXT": "word",
        "A_FLAG": True,
        "A_NUMBER": -3,
        "A_LENGTH": 0.5,
        "SOME_WORDS": ("a", "b", "c"),
        "A_MOMENT": datetime(2030, 1, 31, 12, tzinfo=UTC),
        "A_SECRET": "a long random value",
    }


def test_a_time_without_a_zone_is_utc():
    assert values_of(X_A_MOMENT="2030-01-31")["A_MOMENT"] == datetime(2030, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X_A_FLAG", "maybe"),
        ("X_A_NUMBER", "many"),
        ("X_A_NUMBER", "1.5"),
        ("X_A_LENGTH", "long"),
        ("X_A_MOMENT", "tomorrow"),
    ],
)
def test_what_cannot_be_understood_is_named(name, value):
    with pytest.raises(ImproperlyConfigured, match=name):
        values_of(**{name: value})


@pytest.mark.parametrize(
    "value", ["changeme", "Secret", "INSECURE", "password", "django-insecure-abc"]
)
def test_a_well_known_secret_is_refused_and_not_repeated(value):
    with pytest.raises(ImproperlyConfigured, match="A_KEY") as caught:
        Environment({"A_KEY": value}).secret("A_KEY")

    assert value not in str(caught.value)


def test_an_empty_secret_is_refused_where_one_is_required():
    with pytest.raises(ImproperlyConfigured, match="A_KEY is empty"):
        Environment({"A_KEY": " "}).secret("A_KEY", is_required=True)


def test_a_secret_may_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text("from a file\n")

    assert Environment({"A_KEY_FILE": str(tmp_path / "key")}).secret("A_KEY") == "from a file"


def test_a_secret_from_a_file_is_judged_as_any_other(tmp_path):
    (tmp_path / "key").write_text("\n")

    with pytest.raises(ImproperlyConfigured, match="A_KEY_FILE is empty"):
        Environment({"A_KEY_FILE": str(tmp_path / "key")}).secret("A_KEY", is_required=True)


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ImproperlyConfigured, match="A_KEY_FILE: cannot read"):
        Environment({"A_KEY_FILE": str(tmp_path / "absent")}).secret("A_KEY")


def test_a_secret_that_is_given_twice_is_refused():
    with pytest.raises(ImproperlyConfigured, match="both set"):
        Environment({"A_KEY": "x" * 20, "A_KEY_FILE": "/y"}).secret("A_KEY")


def test_a_relative_path_starts_at_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert Environment({"HERE": "data"}).path("HERE", Path("/")) == tmp_path.resolve() / "data"
