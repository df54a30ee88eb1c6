"""The key and certificates that this installation signs manifests with: made once, by itself, so a
reader elsewhere says "valid, signer unknown"; only here the signer is trusted.

The leaf has what C2PA 2.x asks of a signer (key usage digitalSignature, extended key usage
emailProtection, subject and authority key identifiers). The root signs it and its key is thrown
away: no other leaf can come of it."""

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from daedal.errors import DaedalError
from daedal.files import data_folder, private_file

FILE = "provenance.pem"
YEARS = 10
END = b"-----END CERTIFICATE-----\n"
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True)
class Credentials:
    """PEM texts: the private key, the leaf with the root behind it, and the root."""

    key: bytes
    chain: bytes
    root: bytes


def credentials() -> Credentials:
    """Those of this installation, made the first time."""
    text = private_file(FILE, new_credentials)
    at, parts = text.find(b"-----BEGIN CERTIFICATE"), text.split(END)
    if at <= 0 or len(parts) != 3:
        raise DaedalError(
            f"{data_folder() / FILE} does not hold a key and two certificates; put its copy back, or delete it to have new ones made."
        )
    return Credentials(text[:at], text[at:], parts[1] + END)


def known_root() -> bytes | None:
    """The root where there is one: reading makes none."""
    return credentials().root if (data_folder() / FILE).exists() else None


def new_credentials() -> bytes:
    """A key (ECDSA on P-256), its certificate, and the root's, as one PEM text."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("root", root_key.public_key(), root_key, authority=True)
    leaf = _certificate("this installation", key.public_key(), root_key, authority=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + leaf.public_bytes(pem) + root.public_bytes(pem)


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    wanted = ("key_cert_sign", "crl_sign") if authority else ("digital_signature",)
    usage = x509.KeyUsage(**{each: each in wanted for each in USAGES})
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("root"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not authority:
        mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(mail, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Daedal"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Daedal, {common}"),
        ]
    )
