"""The pages for people who watch."""

from django.contrib.auth.views import LoginView, LogoutView
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from dashboard import views

urlpatterns = [
    path("", views.home, name="home"),
    path(
        "login/",
        LoginView.as_view(template_name="dashboard/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    # Pages that name no icon, such as the admin's, ask here.
    path("favicon.ico", RedirectView.as_view(url=static("dashboard/icon.svg"))),
    path("logout/", LogoutView.as_view(), name="logout"),
]
