"""The declaration of webhooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.runtime import api_keys
from infra.runtime.declared import Mistakes
from ingest_gateway.hooks import Hooks, load
from ingest_gateway.signatures import GitHub, Shopify, StandardWebhooks, Stripe, Unsigned
from tests.stack import ROOT

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def declared(folder: Path, text: str) -> tuple[Hooks, tuple[Path, ...]]:
    """What this file says."""
    file = folder / "webhooks.toml"
    file.write_text(text)
    return load(file)


def mistakes(folder: Path, text: str) -> list[str]:
    """What is wrong with it."""
    with pytest.raises(Mistakes) as caught:
        declared(folder, text)
    return list(caught.value.mistakes)


def test_each_scheme_has_its_own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", f" {WHSEC}\n")
    hooks, files = declared(
        tmp_path,
        "".join(
            f'[sources.{scheme}]\nscheme = "{scheme}"\nsecrets = [{{ env = "A_SECRET" }}]\n'
            for scheme in ("standard_webhooks", "github", "stripe", "shopify")
        ),
    )
    assert {name: (hook.key, hook.type) for name, hook in hooks.items()} == {
        "standard_webhooks": (place(header="webhook-id"), place(pointer="/type")),
        "github": (place(header="X-GitHub-Delivery"), place(header="X-GitHub-Event")),
        "stripe": (place(pointer="/id"), place(pointer="/type")),
        "shopify": (place(header="X-Shopify-Webhook-Id"), place(header="X-Shopify-Topic")),
    }
    assert [hook.scheme for hook in hooks.values()] == [
        StandardWebhooks.of([WHSEC]),
        GitHub((WHSEC.encode(),)),
        Stripe((WHSEC.encode(),)),
        Shopify((WHSEC.encode(),)),
    ]
    assert {hook.schema_version for hook in hooks.values()} == {"1.0"}
    assert all(hook.signed for hook in hooks.values())
    assert files == ()


def place(**where: str) -> object:
    """A place as the file would say it."""
    from ingest_gateway.hooks import Place

    return Place(**where)


def test_places_of_ones_own_and_secrets_in_files(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new-secret\n")
    old.write_text("old-secret")
    hooks, files = declared(
        tmp_path,
        f"""
        [sources.shop]
        scheme = "github"
        secrets = [{{ file = "{new}" }}, {{ file = "{old}" }}]
        key = {{ pointer = "/a~1b/0" }}
        schema_version = "2.1"

        [sources."meters.v2_x-y"]
        scheme = "none"
        key = {{ header = "X-Request-Id" }}
        """,
    )
    shop, meters = hooks.values()
    assert shop.scheme == GitHub((b"new-secret", b"old-secret"))
    assert (shop.key.tokens, shop.key.header_name, shop.schema_version) == (("a/b", "0"), None, "2.1")
    assert (meters.scheme, meters.key.header_name, meters.type) == (Unsigned(), b"x-request-id", None)
    assert not meters.signed
    assert files == (new, old)


def test_all_mistakes_are_told_at_once_by_path_and_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "SECRET")
    monkeypatch.setenv("EMPTY", "")
    told = mistakes(
        tmp_path,
        """
        verison = 1
        [sources.one]
        scheme = "github"
        secrets = [{ env = "NOT_THERE" }, { file = "/not/there" }, {}, { env = "EMPTY" }]
        [sources."a b"]
        scheme = "none"
        [sources.three]
        scheme = "none"
        key = { pointer = "id" }
        schema_version = 2
        secret = "SECRET"
        [sources.four]
        scheme = "gitlab"
        key = { header = "a", pointer = "/x" }
        [sources.five]
        scheme = "standard_webhooks"
        secrets = [{ env = "SHORT" }]
        [sources.six]
        scheme = "none"
        [sources.seven]
        scheme = "stripe"
        [sources.eight]
        scheme = "none"
        secrets = [{ env = "SHORT" }]
        key = { header = "sp ace" }
        """,
    )
    assert [line.partition(":")[0] for line in told] == [
        "verison",
        "sources.one.secrets[0].env",
        "sources.one.secrets[1].file",
        "sources.one.secrets[2]",
        "sources.one.secrets[3].env",
        "sources.a b",
        "sources.three.key.pointer",
        "sources.three.schema_version",
        "sources.three.secret",
        "sources.four.scheme",
        "sources.four.key",
        "sources.five.secrets[0]",
        "sources.six",
        "sources.seven",
        "sources.eight.key.header",
    ]
    assert not any("SECRET" in line for line in told)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[sources", "no TOML"),
        ("sources = 1", "must be a table"),
        ("[sources]\nx = 1", "must be a table"),
        ('[sources.x]\nscheme="none"\nkey={pointer=""}', "part of the body"),
        ('[sources.x]\nscheme="none"\nkey={pointer="/a"}\n[sources.x]', "no TOML"),
        (
            f'[sources.x]\nscheme="github"\nsecrets=[{", ".join(["{env=" + chr(34) + "A" + chr(34) + "}"] * 5)}]',
            "4 item",
        ),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str, rule: str) -> None:
    assert rule in "\n".join(mistakes(tmp_path, text))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(Mistakes, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(Mistakes, match="UTF-8"):
        load(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"#" * 1_048_577)
    with pytest.raises(Mistakes, match="larger"):
        load(tmp_path / "x")


def test_no_sources_are_no_mistake(tmp_path: Path) -> None:
    assert declared(tmp_path, "# none yet\n") == ({}, ())


def test_the_readmes_examples_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks, keys = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "s")
    for name in ("github-old", "stripe"):
        (tmp_path / name).write_text("s")
    hooks, files = declared(tmp_path, webhooks.replace("/run/secrets", str(tmp_path)))
    assert [*hooks] == ["github", "billing", "meters"]
    assert len(files) == 2
    (tmp_path / "keys.toml").write_text(keys)
    grants, _ = api_keys.load(tmp_path / "keys.toml")
    assert sorted(grant.name for grant in grants.values()) == ["backfill", "billing"]
