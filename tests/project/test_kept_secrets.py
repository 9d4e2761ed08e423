"""Secrets that nobody gave are made once, whoever else starts at the same moment."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.kept_secrets import kept_secret


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "secret"

    first = kept_secret(path)

    assert len(first) >= 50
    assert kept_secret(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_all_who_start_at_once_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as threads:
        found = set(threads.map(lambda _: kept_secret(tmp_path / "secret"), range(64)))

    assert len(found) == 1


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "secret").touch()

    with pytest.raises(ImproperlyConfigured, match="is empty: delete it"):
        kept_secret(tmp_path / "secret")


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ImproperlyConfigured, match="cannot keep a secret in"):
        kept_secret(tmp_path / "absent" / "secret")
