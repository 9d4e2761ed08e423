"""Where requests may go."""

import ipaddress

import pytest

from upstreams import addresses
from upstreams.addresses import Refused


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", ("http", "example.com", 80, "")),
        ("https://example.com/api/", ("https", "example.com", 443, "/api")),
        ("http://[2606:4700::1]:8080/x", ("http", "2606:4700::1", 8080, "/x")),
    ],
)
def test_a_url_has_scheme_host_port_and_path(url, expected):
    assert tuple(addresses.parsed(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com",
        "file:///etc/passwd",
        "gopher://example.com/",
        "redis://127.0.0.1:6379",
        "http://",
        "http://user@example.com",
        "http://allowed.example@evil.example/",
        "http://user:secret@example.com/",
        "http://example.com/?a=b",
        "http://example.com/#a",
        "http://example.com?",
        "http://example.com#",
        "http://example.com:99999/",
        "http://exam ple.com/",
        "http://example.com\\@evil.example/",
        "http://example.com/\r\nX-Evil: 1",
        "http://exämple.com/",
        "http://[::1",
    ],
)
def test_a_url_that_no_request_may_go_to_is_refused(url):
    with pytest.raises(Refused):
        addresses.parsed(url)


PRIVATE = [
    "127.0.0.1",
    "127.255.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "::1",
    "fe80::1",
    "fc00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "fec0::1",
    "5f00::1",
    "100::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_unless_that_is_allowed(address):
    with pytest.raises(Refused, match="private"):
        addresses.check(ipaddress.ip_address(address), allow_private=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fc00::1"])
def test_a_private_address_may_be_allowed(address):
    addresses.check(ipaddress.ip_address(address), allow_private=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_is_good(address):
    addresses.check(ipaddress.ip_address(address), allow_private=False)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"])
@pytest.mark.parametrize("allow_private", [False, True])
def test_nobody_is_asked_where_nobody_can_be(address, allow_private):
    with pytest.raises(Refused):
        addresses.check(ipaddress.ip_address(address), allow_private=allow_private)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "0x7f.1", "::1"]
)
def test_an_address_is_known_however_it_is_written(host):
    with pytest.raises(Refused):
        addresses.check_literal(host, allow_private=False)


@pytest.mark.parametrize("host", ["example.com", "localhost", "8.8.8.8"])
def test_a_name_is_left_to_the_resolver(host):
    addresses.check_literal(host, allow_private=False)
