import re

import pytest
from django.contrib.messages import get_messages
from django.urls import reverse

from realtime.admin.namespaces import NamespaceAdmin
from realtime.models import ApiKey, Namespace, hash_of_key

pytestmark = pytest.mark.django_db

ADD_KEY = {"name": "reports", "scopes": "publish:demo:*\n\n info \n"}


@pytest.fixture
def urls():
    return {
        f"{model}_{page}": reverse(f"admin:realtime_{model}_{page}")
        for model in ("namespace", "apikey")
        for page in ("add", "changelist")
    }


def errors(response):
    return response.context["adminform"].form.errors


def test_every_option_of_a_namespace_is_in_one_fieldset():
    shown = [name for _, section in NamespaceAdmin.fieldsets for name in section["fields"]]

    columns = [field.name for field in Namespace._meta.local_concrete_fields if field.name != "id"]
    assert sorted(shown) == sorted(columns)


def test_a_namespace_can_be_added_and_changed(admin_client, urls):
    given = {"name": "demo", "history_size": 5, "history_ttl": 60, "history_meta_ttl": 0}
    admin_client.post(urls["namespace_add"], given)
    row = Namespace.objects.get()
    page = reverse("admin:realtime_namespace_change", args=[row.pk])

    admin_client.post(page, {**given, "force_recovery": "on"})

    assert Namespace.objects.get().force_recovery
    assert "History and recovery" in admin_client.get(page).content.decode()


def test_options_that_do_not_go_together_are_told_beside_the_field(admin_client, urls):
    response = admin_client.post(
        urls["namespace_add"],
        {
            "name": "demo",
            "history_size": 5,
            "history_ttl": 0,
            "history_meta_ttl": 0,
            "force_recovery": "on",
            "auto_cache_recover": "on",
        },
    )

    assert set(errors(response)) == {"history_ttl", "force_recovery", "auto_cache_recover"}
    assert not Namespace.objects.exists()


def test_the_namespace_without_a_name_can_be_clicked(admin_client, urls):
    Namespace.objects.create(name="")

    assert (
        "(without a namespace)</a>"
        in admin_client.get(urls["namespace_changelist"]).content.decode()
    )


@pytest.mark.parametrize("name", ["a\0b", "<script>", "x"])
def test_a_name_out_of_the_ordinary_is_refused(admin_client, urls, name):
    numbers = {"history_size": 0, "history_ttl": 0, "history_meta_ttl": 0}

    response = admin_client.post(urls["namespace_add"], {"name": name, **numbers})

    assert set(errors(response)) == {"name"}


def test_a_new_key_is_shown_once(admin_client, urls):
    response = admin_client.post(urls["apikey_add"], ADD_KEY)

    said = " ".join(map(str, get_messages(response.wsgi_request)))
    (key,) = re.findall(r"[0-9a-f]{64}", said)
    row = ApiKey.objects.get()
    assert row.key_hash == hash_of_key(key)
    assert row.scopes == ["publish:demo:*", "info"]

    shown = admin_client.get(urls["apikey_changelist"]).content.decode()
    assert key in shown  # the message
    page = reverse("admin:realtime_apikey_change", args=[row.pk])
    for url in (urls["apikey_changelist"], page):
        later = admin_client.get(url).content.decode()
        assert key not in later
        assert row.key_hash not in later
        assert row.prefix in later


def test_of_a_new_key_nothing_is_shown_that_it_does_not_have_yet(admin_client, urls):
    page = admin_client.get(urls["apikey_add"]).content.decode()

    assert 'name="scopes"' in page
    assert "Last used at" not in page


def test_changing_a_key_keeps_the_key_itself(admin_client):
    row, _ = ApiKey.create("reports")
    page = reverse("admin:realtime_apikey_change", args=[row.pk])

    response = admin_client.post(page, {"name": "renamed", "scopes": "info", "key_hash": "0" * 64})

    changed = ApiKey.objects.get()
    assert response.status_code == 302
    assert (changed.name, changed.scopes, changed.key_hash) == ("renamed", ["info"], row.key_hash)
    assert not re.search(r"[0-9a-f]{64}", str(list(get_messages(response.wsgi_request))))


def test_scopes_are_shown_one_a_line(admin_client):
    row, _ = ApiKey.create("reports", scopes=["info", "publish:demo:*"])

    page = admin_client.get(reverse("admin:realtime_apikey_change", args=[row.pk])).content.decode()

    assert "info\npublish:demo:*</textarea>" in page


@pytest.mark.parametrize("scopes", ["", " \n ", "publsh", "info:x", "publish:"])
def test_wrong_scopes_are_told_beside_the_field_and_stay_in_it(admin_client, urls, scopes):
    response = admin_client.post(urls["apikey_add"], {"name": "reports", "scopes": scopes})

    assert set(errors(response)) == {"scopes"}
    assert scopes.strip() in response.content.decode()
    assert not ApiKey.objects.exists()


def test_staff_without_the_permission_makes_no_key(client, urls, django_user_model):
    staff = django_user_model.objects.create_user("staff", password="x", is_staff=True)
    client.force_login(staff)

    response = client.post(urls["apikey_add"], ADD_KEY)

    assert response.status_code == 403
    assert not ApiKey.objects.exists()
