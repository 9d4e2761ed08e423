import pytest

from realtime import origins


@pytest.fixture(autouse=True)
def configure(settings):
    def configure(*allowed):
        settings.REALTIME = {"ALLOWED_ORIGINS": allowed}

    configure()
    return configure


def is_allowed(origin, *, scheme="http", host="board.example"):
    return origins.is_allowed(origin, scheme=scheme, host=host)


@pytest.mark.rule("origin-absent-allowed")
def test_a_client_that_sends_no_origin_is_let_in():
    assert is_allowed(None)


@pytest.mark.rule("origin-own-allowed")
@pytest.mark.parametrize(
    ("origin", "scheme", "host"),
    [
        ("http://board.example", "http", "board.example"),
        ("http://board.example", "http", "board.example:80"),
        ("http://board.example:80", "http", "board.example"),
        ("https://board.example", "https", "board.example:443"),
        ("HTTP://Board.Example", "http", "board.EXAMPLE"),
        ("http://127.0.0.1:8000", "http", "127.0.0.1:8000"),
        ("http://[::1]:8000", "http", "[::1]:8000"),
    ],
)
def test_the_servers_own_pages_may_connect(origin, scheme, host):
    assert is_allowed(origin, scheme=scheme, host=host)


@pytest.mark.rule("origin-foreign-refused")
@pytest.mark.parametrize(
    ("origin", "scheme", "host"),
    [
        ("http://evil.example", "http", "board.example"),
        ("https://board.example", "http", "board.example"),
        ("http://board.example", "https", "board.example"),
        ("http://board.example:8001", "http", "board.example:8000"),
        ("http://board.example.evil.example", "http", "board.example"),
        ("http://evilboard.example", "http", "board.example"),
        ("http://board.example/", "http", "board.example"),
        ("http://board.example?x", "http", "board.example"),
        ("http://localhost:8000", "http", "127.0.0.1:8000"),
        ("null", "http", "board.example"),
        ("", "http", ""),
        ("http://", "http", ""),
        ("http://:80", "http", ":80"),
        ("http://[::1", "http", "[::1"),
        ("http://a:99999", "http", "a:99999"),
        ("http://a:b", "http", "a:b"),
        ("file://", "http", "board.example"),
        ("chrome-extension://board.example", "http", "board.example"),
    ],
)
def test_others_may_not(origin, scheme, host):
    assert not is_allowed(origin, scheme=scheme, host=host)


@pytest.mark.rule("origin-glob-allowed")
def test_a_glob_allows_others(configure):
    configure("https://*.example.org", "http://Localhost:*")

    assert is_allowed("https://a.example.org")
    assert is_allowed("https://A.Example.Org")
    assert is_allowed("http://localhost:3000")
    assert not is_allowed("http://a.example.org")
    assert not is_allowed("https://example.org")


@pytest.mark.rule("origin-star-allowed")
def test_a_star_allows_everything(configure):
    configure("*")

    assert is_allowed("https://evil.example")
    assert is_allowed("null")
