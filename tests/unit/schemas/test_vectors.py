"""The published vectors, reproduced twice: by this release, and from their description alone (`reference`)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from schemas import event, vectors
from schemas.errors import Rejected
from tests.unit.schemas import reference

FILE = Path(vectors.__file__).parent / "vectors.json"
PUBLISHED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_file_is_what_this_release_computes() -> None:
    assert vectors.computed() == PUBLISHED


@pytest.mark.parametrize("vector", PUBLISHED["event_ids"], ids=lambda vector: vector["source"][:20])
def test_event_ids_follow_from_their_description(vector: dict[str, str]) -> None:
    assert reference.event_id(PUBLISHED["namespace"], vector["source"], vector["idempotency_key"]) == vector["event_id"]


@pytest.mark.parametrize("vector", PUBLISHED["fingerprints"], ids=lambda vector: ascii(vector["payload"][:30]))
def test_canonical_forms_and_fingerprints_follow_from_their_description(vector: dict[str, str]) -> None:
    assert reference.canonical(vector["payload"]) == vector["canonical"]
    assert reference.fingerprint(vector["payload"]) == vector["fingerprint"]


@pytest.mark.parametrize("vector", PUBLISHED["equal"], ids=lambda vector: ascii(vector["payloads"][0]))
def test_equal_payloads_have_one_fingerprint(vector: dict[str, list[str]]) -> None:
    assert len({reference.fingerprint(payload) for payload in vector["payloads"]}) == 1
    assert len({vectors._fingerprint(payload)["fingerprint"] for payload in vector["payloads"]}) == 1


@pytest.mark.parametrize("vector", PUBLISHED["unequal"], ids=lambda vector: ascii(vector["payloads"][0]))
def test_unequal_payloads_have_different_fingerprints(vector: dict[str, list[str]]) -> None:
    assert len({reference.fingerprint(payload) for payload in vector["payloads"]}) == len(vector["payloads"])
    assert len({vectors._fingerprint(payload)["fingerprint"] for payload in vector["payloads"]}) == len(
        vector["payloads"]
    )


@pytest.mark.parametrize("vector", PUBLISHED["accepted"], ids=lambda vector: ascii(vector["envelope"][-40:]))
def test_accepted_envelopes(vector: dict[str, Any]) -> None:
    made = event.parse_envelope(vector["envelope"].encode())
    members = json.loads(vector["envelope"])
    assert (
        reference.event_id(PUBLISHED["namespace"], members["source"], members["idempotency_key"]) == vector["event_id"]
    )
    assert reference.fingerprint(vector["payload"]) == vector["fingerprint"] == made.fingerprint.hex()
    assert json.loads(vector["payload"]) == members["payload"]
    assert "\n" not in vector["one_line"]
    assert event.parse_envelope(vector["one_line"].encode()) == made


@pytest.mark.parametrize("vector", PUBLISHED["refused"], ids=lambda vector: ascii(str(vector)[-60:]))
def test_refused_envelopes(vector: dict[str, str]) -> None:
    text = vector.get("envelope")
    raw = text.encode() if text is not None else base64.b64decode(vector["envelope_base64"])
    with pytest.raises(Rejected) as refused:
        event.parse_envelope(raw)
    error = refused.value
    assert (type(error).__name__, error.reason, error.pointer) == (vector["error"], vector["reason"], vector["pointer"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        *[("1", other, True) for other in ("1.0", "1e0", "1.00")],
        ("-0", "0", True),
        ('"\\u00e9"', '"é"', True),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', True),
        ("[1,2]", "[2,1]", False),
        ("10000000000000000.1", "10000000000000000.2", False),
        ("12345678901234567890.10", "12345678901234567890.1", True),
    ],
)
def test_the_vectors_of_the_design_are_among_the_published(one: str, other: str, same: bool) -> None:
    groups = PUBLISHED["equal" if same else "unequal"]
    assert any({one, other} <= set(group["payloads"]) for group in groups)


def test_a_published_vector_cannot_be_changed_or_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = json.loads(FILE.read_text(encoding="utf-8"))
    changed["fingerprints"][0]["fingerprint"] = "01" + "00" * 16
    changed["event_ids"].append({"source": "gone", "idempotency_key": "k", "event_id": "x"})
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(changed), encoding="utf-8")
    monkeypatch.setattr(vectors, "FILE", file)
    assert vectors.main() == 1
    assert json.loads(file.read_text(encoding="utf-8")) == changed
    assert capsys.readouterr().err.count("published vector changed") == 2


def test_new_vectors_are_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fewer = {**PUBLISHED, "refused": PUBLISHED["refused"][1:]}
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(fewer), encoding="utf-8")
    monkeypatch.setattr(vectors, "FILE", file)
    assert vectors.main() == 0
    assert json.loads(file.read_text(encoding="utf-8")) == PUBLISHED
    file.unlink()
    assert vectors.main() == 0
    assert file.read_bytes() == FILE.read_bytes()
