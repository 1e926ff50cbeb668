"""Addresses and TLS files are checked before anything is sent."""

import pytest

from serving.client import AsyncClient, Client, Tls

BOTH = pytest.mark.parametrize("kind", [Client, AsyncClient])
SECURE = pytest.mark.parametrize("url", ["https://127.0.0.1:9", "grpcs://127.0.0.1:9"])


@BOTH
@SECURE
def test_a_missing_file_is_named(kind, url, tmp_path):
    there = tmp_path / "there.pem"
    there.touch()
    missing = tmp_path / "missing.pem"
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        kind(url, tls=Tls(roots=missing))
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        kind(url, tls=Tls(certificate=there, key=missing))


@BOTH
@SECURE
def test_a_file_of_another_kind_is_named(kind, url, tmp_path):
    other = tmp_path / "other.pem"
    other.write_text("no certificate\n")
    for tls in (Tls(roots=other), Tls(certificate=other, key=other)):
        with pytest.raises(ValueError, match=r"expected PEM files .*other\.pem"):
            kind(url, tls=tls)


@BOTH
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_tls_without_encryption_is_an_error(kind, url, tmp_path):
    """Otherwise roots would suggest a secure connection."""
    with pytest.raises(
        ValueError, match=f"{url}, which is not encrypted; use https:// or grpcs://"
    ):
        kind(url, tls=Tls(roots=tmp_path / "any.pem"))
