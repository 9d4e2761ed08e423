"""Upstreams in the admin."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from upstreams.models import Upstream

pytestmark = pytest.mark.django_db

SECRETS = ("very-secret", "key-in-a-header")


@pytest.fixture
def upstream():
    return Upstream.objects.create(
        name="backend",
        base_url="http://example.com",
        signing_secret=SECRETS[0],
        static_headers={"X-Key": SECRETS[1]},
    )


@pytest.fixture
def page(upstream, client, django_user_model):
    """Return a way to read an upstream's page as somebody with some permissions on it."""

    def page(*permissions):
        user = django_user_model.objects.create_user("ada", password="x", is_staff=True)
        names = [f"{permission}_upstream" for permission in permissions]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)
        return client.get(reverse("admin:upstreams_upstream_change", args=[upstream.pk]))

    return page


def test_who_may_only_look_sees_nothing_of_what_is_secret(page):
    text = page("view").content.decode()

    assert "http://example.com" in text
    assert not any(secret in text for secret in SECRETS)


def test_who_may_change_it_sees_headers_but_not_the_secret(page):
    text = page("view", "change").content.decode()

    assert SECRETS[1] in text
    assert SECRETS[0] not in text
    assert "signing_secret" in text
