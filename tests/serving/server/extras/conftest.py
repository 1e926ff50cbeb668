"""Certificates, made when the tests run."""

import datetime
import ipaddress

import pytest


def certificate(name, issuer=None, *, authority=False):
    """(certificate, key) for localhost and 127.0.0.1, signed by `issuer` or by itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    signer = issuer[1] if issuer else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2020, 1, 1)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        # Python 3.13 refuses a chain without these three.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
        .add_extension(_usage(x509, authority=authority), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return made, key


def _usage(x509, *, authority):
    uses = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    never = dict.fromkeys((*uses, "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=True, key_cert_sign=authority, **never)


def pem(pair):
    """(certificate, key) as PEM bytes."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = pair[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pair[0].public_bytes(Encoding.PEM), key


@pytest.fixture(scope="session")
def certificates():
    """(certificate, key) PEM of an authority, and of a server and a client that it signed."""
    authority = certificate("authority", authority=True)
    signed = {name: pem(certificate(name, authority)) for name in ("server", "client")}
    return {"authority": pem(authority), **signed}


@pytest.fixture(scope="session")
def make_certificate():
    """`(name) -> (certificate, key)` PEM, signed by itself."""
    return lambda name: pem(certificate(name))
