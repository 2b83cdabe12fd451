"""Signatures of webhooks: published vectors, the reference library as the sender, and what forgers try."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from standardwebhooks.webhooks import Webhook

from ingest_gateway.access import Denied, Refused
from ingest_gateway.signatures import (
    MOST_SIGNATURES,
    TOLERANCE,
    GitHub,
    Headers,
    Scheme,
    Shopify,
    StandardWebhooks,
    Stripe,
    Unsigned,
)
from schemas.errors import Malformed

# Of the reference libraries' own tests: https://github.com/standard-webhooks/standard-webhooks/tree/main/libraries
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SEED = base64.b64decode("VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=")
ID, AT, BODY = b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
V1 = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = b"v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="

PRIVATE = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = "whpk_" + base64.b64encode(PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
# A digest of the right length and form that fits nothing.
WRONG_BASE64 = base64.b64encode(b"\0" * 32)
WRONG_HEX = b"0" * 64


def standard(
    signature: bytes | None = V1, *, name: bytes | None = ID, stamp: bytes | None = b"%d" % AT
) -> list[tuple[bytes, bytes]]:
    """The three headers, without those that are None."""
    given = {b"webhook-id": name, b"webhook-timestamp": stamp, b"webhook-signature": signature}
    return [(header, value) for header, value in given.items() if value is not None]


def stripe(secret: bytes, body: bytes, stamp: bytes = b"%d" % AT, before: bytes = b"", after: bytes = b"") -> Headers:
    """The header, signed as https://docs.stripe.com/webhooks#verify-manually says."""
    digest = hmac.new(secret, stamp + b"." + body, hashlib.sha256).hexdigest().encode()
    return [(b"stripe-signature", before + b"t=" + stamp + b",v1=" + digest + after)]


def shopify(secret: bytes, body: bytes) -> Headers:
    """The header, signed as https://shopify.dev/docs/apps/build/webhooks says."""
    return [(b"x-shopify-hmac-sha256", base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()))]


def refused(scheme: Scheme, headers: Headers, body: bytes = BODY, now: float = AT) -> str:
    """The sentence with which a forger is refused."""
    with pytest.raises(Refused) as caught:
        scheme.check(headers, body, now)
    assert caught.value.reason is Denied.BAD_SIGNATURE
    return caught.value.message


def test_the_published_vectors_of_standard_webhooks() -> None:
    StandardWebhooks.of([SECRET]).check(standard(V1), BODY, AT)
    StandardWebhooks.of([SECRET.removeprefix("whsec_")]).check(standard(V1), BODY, AT)
    StandardWebhooks.of([PUBLIC]).check(standard(V1A), BODY, AT)
    refused(StandardWebhooks.of([PUBLIC]), standard(V1A.replace(b"v1a,", b"v1b,")))
    assert b"v1a," + base64.b64encode(PRIVATE.sign(b"%b.%d.%b" % (ID, AT, BODY))) == V1A


def test_the_reference_library_as_the_sender() -> None:
    sent = datetime.fromtimestamp(AT, UTC)
    body = '{"name": "Zoë", "n": 1.10}'
    signature = Webhook(SECRET).sign("msg_1", sent, body).encode()
    StandardWebhooks.of([SECRET]).check(standard(signature, name=b"msg_1"), body.encode(), AT)
    refused(StandardWebhooks.of([SECRET]), standard(signature, name=b"msg_2"), body.encode())


def test_either_side_may_rotate_its_secrets() -> None:
    both = StandardWebhooks.of([OTHER, SECRET, PUBLIC])
    both.check(standard(V1), BODY, AT)
    both.check(standard(V1A), BODY, AT)
    StandardWebhooks.of([SECRET]).check(standard(b"v1," + WRONG_BASE64 + b" " + V1), BODY, AT)
    StandardWebhooks.of([SECRET]).check(standard(b"v9,x " + V1A + b"  " + V1), BODY, AT)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(standard(None), id="no signature"),
        pytest.param(standard(b""), id="an empty signature"),
        pytest.param(standard(name=None), id="no id"),
        pytest.param(standard(stamp=None), id="no timestamp"),
        pytest.param(standard(b"v1," + WRONG_BASE64), id="a wrong digest"),
        pytest.param(standard(V1[:-2]), id="a digest cut short"),
        pytest.param(standard(b"v1,"), id="an empty digest"),
        pytest.param(standard(b"v1,g0hM9SsE+OTP\xffTGt"), id="no base64"),
        pytest.param(standard(b"v2," + V1[3:]), id="unknown versions alone"),
        pytest.param(standard(V1A), id="of a key that is not known"),
        pytest.param(standard(b"v1a," + V1[3:]), id="a digest as an ed25519 signature"),
        pytest.param(standard(V1.replace(b",", b"=")), id="an entry without a comma"),
        pytest.param(standard(b"nonsense " + V1), id="an entry without a comma beside a good one"),
        pytest.param(standard(name=b"msg_other"), id="another id"),
        pytest.param(standard(stamp=b"%d" % (AT + 1)), id="another time"),
        pytest.param(standard(stamp=b"now"), id="a word for a time"),
        pytest.param(standard(stamp=b"-1"), id="a negative time"),
        pytest.param(standard(stamp=b" "), id="a blank time"),
        pytest.param(standard(stamp=b"1" * 4301), id="4,301 digits"),
        pytest.param(standard(stamp="١٦١٤٢٦٥٣٣٠".encode()), id="digits that are not ASCII"),
    ],
)
def test_a_forged_standard_webhook_is_refused(headers: Headers) -> None:
    refused(StandardWebhooks.of([SECRET]), headers)


def test_the_body_is_signed_byte_for_byte() -> None:
    for body in (BODY + b" ", BODY.replace(b" ", b""), b"", BODY[:-1]):
        refused(StandardWebhooks.of([SECRET]), standard(), body)
        refused(StandardWebhooks.of([PUBLIC]), standard(V1A), body)


def test_a_timestamp_may_lie_300_seconds_to_either_side() -> None:
    schemes: list[tuple[Scheme, Headers]] = [
        (StandardWebhooks.of([SECRET]), standard()),
        (Stripe((b"s",)), stripe(b"s", BODY)),
    ]
    for scheme, headers in schemes:
        for now in (AT - TOLERANCE, AT + TOLERANCE):
            scheme.check(headers, BODY, now)
        for now in (AT - TOLERANCE - 1, AT + TOLERANCE + 1):
            assert "clock" in refused(scheme, headers, now=now)


@pytest.mark.parametrize(
    ("scheme", "headers"),
    [
        (StandardWebhooks.of([SECRET]), standard(b" ".join([V1] * (MOST_SIGNATURES + 1)))),
        (StandardWebhooks.of([SECRET]), standard(b" ".join([V1] * 1000))),
        (StandardWebhooks.of([SECRET]), standard(name=b"msg.1")),
        (StandardWebhooks.of([SECRET]), standard(stamp=b"%d.5" % AT)),
        (StandardWebhooks.of([SECRET]), [*standard(), (b"webhook-signature", V1)]),
        (StandardWebhooks.of([SECRET]), [*standard(), (b"webhook-id", b"msg_2")]),
        (Stripe((b"s",)), stripe(b"s", BODY, after=b",v1=0" * 1000)),
        (Stripe((b"s",)), stripe(b"s", BODY, stamp=b"%d.5" % AT)),
        (GitHub((b"s",)), [(b"x-hub-signature-256", b"sha256=" + WRONG_HEX)] * 2),
        (Shopify((b"s",)), [*shopify(b"s", BODY), *shopify(b"s", BODY)]),
    ],
)
def test_what_no_sender_writes_is_malformed(scheme: Scheme, headers: Headers) -> None:
    with pytest.raises(Malformed) as caught:
        scheme.check(headers, BODY, AT)
    assert "msg" not in caught.value.message


def test_githubs_published_vector() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    secret = b"It's a Secret to Everybody"
    value = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    GitHub((secret,)).check([(b"x-hub-signature-256", value)], b"Hello, World!", AT)
    GitHub((b"new", secret)).check([(b"x-hub-signature-256", value)], b"Hello, World!", AT)
    refused(GitHub((secret,)), [(b"x-hub-signature-256", value)], b"Hello, World?")


@pytest.mark.parametrize(
    "value", [None, b"", b"sha1=" + b"0" * 40, b"sha256=", b"sha256=" + WRONG_HEX, WRONG_HEX, b"sha256=" + b"zz" * 32]
)
def test_a_forged_github_delivery_is_refused(value: bytes | None) -> None:
    refused(GitHub((b"s",)), [] if value is None else [(b"x-hub-signature-256", value)])


def test_stripe() -> None:
    secret = b"whsec_test_secret"
    scheme = Stripe((b"old", secret))
    scheme.check(stripe(secret, BODY), BODY, AT)
    scheme.check(stripe(b"old", BODY, after=b",v0=" + WRONG_HEX), BODY, AT)
    # While Stripe rotates, its header holds a v1 of each secret.
    scheme.check(stripe(secret, BODY, before=b"v1=" + WRONG_HEX + b","), BODY, AT)
    refused(scheme, stripe(secret, BODY), BODY + b"\n")
    refused(scheme, stripe(b"another", BODY))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"t=%d" % AT,
        b"v1=" + WRONG_HEX,
        b"t=%d,v1=" % AT + WRONG_HEX,
        b"t=%d,t=%d,v1=" % (AT, AT) + WRONG_HEX,
        b"t=soon,v1=" + WRONG_HEX,
        b"nonsense",
        b",,,=",
    ],
)
def test_a_forged_stripe_event_is_refused(value: bytes) -> None:
    refused(Stripe((b"s",)), [(b"stripe-signature", value)])


def test_a_v0_of_stripe_is_none_of_its_signatures() -> None:
    headers = [(name, value.replace(b"v1", b"v0")) for name, value in stripe(b"s", BODY)]
    refused(Stripe((b"s",)), headers)


def test_shopify() -> None:
    scheme = Shopify((b"old", b"hush"))
    scheme.check(shopify(b"hush", BODY), BODY, AT)
    scheme.check(shopify(b"old", BODY), BODY, AT)
    refused(scheme, shopify(b"hush", BODY), BODY + b" ")
    for headers in ([], shopify(b"another", BODY), [(b"x-shopify-hmac-sha256", WRONG_BASE64 + b"!")]):
        refused(scheme, headers)


def test_nothing_is_asked_of_the_unsigned() -> None:
    Unsigned().check([], b"", 0)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("whsk_" + base64.b64encode(SEED).decode(), "private key"),
        ("whpk_" + base64.b64encode(b"short").decode(), "ed25519"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "24 to 64"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "24 to 64"),
        ("whsec_not base64!", "24 to 64"),
        ("", "24 to 64"),
    ],
)
def test_a_secret_that_is_none_is_told_without_it(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        StandardWebhooks.of([text])
    assert not text or text not in str(caught.value)


def test_base64_without_its_padding_is_read_all_the_same() -> None:
    padded = "whsec_" + base64.b64encode(b"x" * 25).decode()
    assert StandardWebhooks.of([padded.rstrip("=")]) == StandardWebhooks.of([padded])


@pytest.mark.parametrize("make", [lambda: StandardWebhooks.of([SECRET]), lambda: GitHub((b"SECRET",))])
def test_no_secret_is_shown(make: Callable[[], object]) -> None:
    assert "SECRET" not in repr(make())
    assert "1\\xf2" not in repr(make())
