"""What holds for any document: it is accepted or refused, its digest means something, it never talks."""

from __future__ import annotations

import base64
import copy
import json
import traceback
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ConfigInvalid, ConfigUnsupported
from agent.model import NODE_IP_PLACEHOLDER
from agent.outcome import Mode, Outcome, Standing
from agent.parse import version, wire, yaml_document
from agent.parse.document import Parsed, parse
from agent.parse.secret import from_file
from agent.plan import Observed, make_plan
from agent.report import as_json, make_report
from agent.runtime import Flavour
from tests.support import documents, rendering

_CANARY = "c4naryS3cret"
_BASIC_CANARY = base64.b64encode(f"robot:{_CANARY}".encode()).decode()
_ENCODED_CANARY = base64.b64encode(f"robot2:{_CANARY}".encode()).decode()


def _digest(raw: bytes) -> str:
    return version.digest(wire.read(yaml_document.load(raw, max_bytes=len(raw))))


def _shuffled(value: Any, random: Any) -> Any:
    """Return the same value with the keys of every map in another order."""
    if isinstance(value, dict):
        keys = list(value)
        random.shuffle(keys)
        return {key: _shuffled(value[key], random) for key in keys}
    return [_shuffled(each, random) for each in value] if isinstance(value, list) else value


def _quoted(fields: documents.Fields) -> bytes:
    """Write a document with every string in double quotes and everything in flow style."""
    text = json.dumps(fields, ensure_ascii=False)
    # YAML has no surrogate pairs, and no raw line or paragraph separators, BOMs or non-characters.
    return "".join(each if each.isascii() or each.isalnum() else f"\\U{ord(each):08x}" for each in text).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document."""
    if isinstance(value, dict):
        inner = [place for key in value for place in _places(value[key], (*path, key))]
    elif isinstance(value, list):
        inner = [place for index, each in enumerate(value) for place in _places(each, (*path, index))]
    else:
        inner = []
    return [path, *inner] if path else inner


def _container(fields: Any, place: tuple[Any, ...]) -> Any:
    for part in place[:-1]:
        fields = fields[part]
    return fields


@settings(max_examples=60)
@given(documents.documents())
def test_any_document_of_the_contract_is_accepted(fields: documents.Fields) -> None:
    """The strategy draws what section 1 allows, and what it draws arrives in the model."""
    config = parse(documents.raw(fields)).config
    assert (fields["mode"], fields["version"]) == (config.mode, config.version)
    assert sorted(fields["hosts"]) == [host.name for host in config.hosts]
    for host in config.hosts:
        written = fields["hosts"][host.name]["mirrors"]
        assert [(one["scheme"], one["host"]) for one in written] == [(m.scheme.value, m.host) for m in host.mirrors]
        assert [len(one.get("rewrites", ())) for one in written] == [len(m.rewrites) for m in host.mirrors]
    assert tuple(fields.get("proxyEndpoints", ())) == config.proxy_endpoints


@settings(max_examples=40)
@given(documents.documents(), st.randoms(use_true_random=False))
def test_order_of_keys_and_style_of_quotes_mean_nothing(fields: documents.Fields, random: Any) -> None:
    """The same config, the same digest, however a YAML library writes it down."""
    expected = parse(documents.raw(fields))
    for raw in (documents.raw(_shuffled(fields, random)), _quoted(fields)):
        parsed = parse(raw)
        assert expected.config.digest == parsed.config.digest == _digest(raw)
        assert expected.config.proxy_endpoints == parsed.config.proxy_endpoints
        assert [host.name for host in expected.config.hosts] == [host.name for host in parsed.config.hosts]


@settings(max_examples=40)
@given(documents.documents(), st.data())
def test_any_change_of_credentials_changes_the_digest(fields: documents.Fields, data: st.DataObject) -> None:
    """Every one of the three strings of every mirror counts."""
    changed = copy.deepcopy(fields)
    host = data.draw(st.sampled_from(sorted(changed["hosts"])))
    mirror = data.draw(st.sampled_from(changed["hosts"][host]["mirrors"]))
    auth = mirror.setdefault("auth", documents.auth())
    name = data.draw(st.sampled_from(sorted(auth)))
    auth[name] = data.draw(documents.texts.filter(lambda text: text != auth[name]))
    assert _digest(documents.raw(fields)) != _digest(documents.raw(changed))


@settings(max_examples=25)
@given(documents.documents())
def test_the_digest_as_version_is_no_news(fields: documents.Fields) -> None:
    """A producer's document raises no notice; the version itself is not in the digest."""
    digest = _digest(documents.raw(fields))
    parsed = parse(documents.raw(fields | {"version": digest}))
    assert digest == parsed.config.digest == parsed.config.version
    assert "VersionMismatch" not in [notice.code for notice in parsed.notices]


@settings(max_examples=30)
@given(documents.documents(), st.sampled_from(["plain", "data", "wrapped", "stringData"]))
def test_a_secret_around_a_document_changes_nothing(fields: documents.Fields, form: str) -> None:
    """Every form of a source file leads to the same bytes."""
    raw = documents.raw(fields)
    encoded = base64.b64encode(raw).decode()
    wrapped = base64.encodebytes(raw).decode()
    forms: dict[str, Any] = {
        "data": {"data": {"config": encoded}},
        "wrapped": {"data": {"config": wrapped}},
        "stringData": {"stringData": {"config": raw.decode()}},
    }
    outer = raw if form == "plain" else documents.raw({"apiVersion": "v1", "kind": "Secret", **forms[form]})
    assert raw == from_file(outer)


@settings(max_examples=250)
@given(st.binary(max_size=80) | st.text("{}[]&*!|>%@`'\"\\#,:?- \n\tabhostsmode~<0123", max_size=60).map(str.encode))
@example(b"")
@example(b"? ")
@example(b"- - - -")
@example(b"%YAML 9.9\n---\n")
@example(b"--- !<tag:x> a")
def test_any_bytes_are_accepted_or_refused(raw: bytes) -> None:
    """Nothing but ConfigInvalid ever comes out, from a document as from a manifest."""
    for document in (raw, b"kind: Secret\n" + raw):
        try:
            parse(from_file(document))
        except ConfigInvalid as err:
            assert err.problems  # noqa: PT017 -- that it is refused is one of two right answers


def _with_canaries(fields: documents.Fields) -> documents.Fields:
    """Return the document with canaries for every secret that it has, and one mirror that has them all."""
    full = copy.deepcopy(fields)
    for host in full["hosts"].values():
        for mirror in host["mirrors"]:
            mirror["auth"] = documents.auth("robot", _CANARY)
            if "headers" in mirror:
                mirror["headers"] = {name: [_CANARY, f"Bearer {_CANARY}"] for name in mirror["headers"]}
    bearer = {"Authorization": f"Bearer {_CANARY}"}
    encoded = documents.auth(encoded=_ENCODED_CANARY)
    client = {"cert": documents.CLIENT_CERTIFICATE, "key": documents.CLIENT_KEY}
    full["hosts"]["canary.example.com"] = documents.host(
        documents.mirror("one", client=client, headers=bearer),
        documents.mirror("two", auth=encoded),
        documents.mirror("three", auth=documents.auth("robot", _CANARY)),
    )
    return full


#: Things that somebody might put where they do not belong, each with a canary.
_misplaced = st.sampled_from(
    [
        _CANARY + "\n",
        f"robot:{_CANARY}@registry.example.com",
        f"https://robot:{_CANARY}@registry.example.com/x",
        f"{_CANARY}/{_CANARY}",
        f"${_CANARY}(",
        f"$({_CANARY}",
        f"-----BEGIN CERTIFICATE-----\n{_CANARY}\n-----END CERTIFICATE-----\n",
        f"-----BEGIN PRIVATE KEY-----\n{_CANARY}\n-----END PRIVATE KEY-----\n",
        [f"{_CANARY}\n"],
        {"password": _CANARY},
        {"password": {"password": [_CANARY]}},
        {f"robot:{_CANARY}@registry.example.com": _CANARY},
        [[_CANARY]],
        None,
        True,
    ]
)

#: Fields that say who and what, and are shown: not a place for a secret.
_PUBLIC = {"mode", "version", "imagesBase", "username", "from", "to", "ca", "cert"}


@st.composite
def _talkative_documents(draw: st.DrawFn) -> bytes:
    """Draw a document full of canaries, right or damaged in the model, in its keys or in its bytes."""
    fields = _with_canaries(draw(documents.documents()))
    for place in draw(st.lists(st.sampled_from(_places(fields)), max_size=2, unique=True)):
        if place[-1] in _PUBLIC:
            continue
        try:
            container = _container(fields, place)
            is_key = isinstance(container, dict) and draw(st.booleans())
            name = f"robot:{_CANARY}@{place[-1]}" if is_key else place[-1]
            container[name] = copy.deepcopy(draw(_misplaced))  # or a later change would nest it in itself
        except (KeyError, TypeError, IndexError):  # the first change has taken the second one's place
            continue
    raw = documents.raw(fields)
    damage = draw(st.sampled_from(["none", "none", "cut", "insert"]))
    at = draw(st.integers(0, len(raw)))
    if damage == "cut":
        return raw[:at]
    junk = draw(st.sampled_from([b"\0", b"\xff", b"\t", b"'", b'"', b"&x ", b"*x", b"!!int ", b"\n", b": ", b"{"]))
    return raw[:at] + junk + raw[at:] if damage == "insert" else raw


def _said_about(err: AgentError) -> str:
    assert err.__cause__ is None
    assert err.__context__ is None
    return f"{err} {err!r} {err.args} {vars(err)} {''.join(traceback.format_exception(err))}"


def _said_by(parsed: Parsed) -> str:
    """Return all that an accepted document makes the agent say."""
    said = [repr(parsed)]
    for flavour in Flavour:
        where = rendering.target(flavour, "2.2.3", node_ip="10.0.0.7")
        try:
            rendered = rendering.RENDERER.render(parsed.config, where)
        except ConfigUnsupported as err:
            said.append(_said_about(err))
            continue
        plan = make_plan(rendered.tree, Observed())
        outcome = Outcome(
            mode=Mode.MANAGE,
            standing=Standing.CONFIGURED,
            steps=(),
            plan=plan,
            config=parsed.config,
            notices=(*parsed.notices, *rendered.notices),
        )
        report = make_report(outcome)
        said += [repr(rendered), repr(plan), repr(outcome), repr(report), json.dumps(as_json(report))]
    return " ".join(said)


@settings(max_examples=150)
@given(_talkative_documents())
@example(documents.raw(_with_canaries(documents.document())))
def test_no_secret_is_ever_said(raw: bytes) -> None:
    """Whatever is wrong with a document: no error, trace, notice, report or repr quotes a secret of it."""
    try:
        said = _said_by(parse(raw))
    except ConfigInvalid as err:
        said = _said_about(err)
    key_lines = documents.CLIENT_KEY.splitlines()[1:-1]
    leaked = [secret for secret in (_CANARY, _BASIC_CANARY, _ENCODED_CANARY, *key_lines) if secret in said]
    assert [] == leaked


@settings(max_examples=60)
@given(_talkative_documents(), st.sampled_from(["data", "stringData"]))
def test_no_secret_is_said_about_a_manifest(raw: bytes, key: str) -> None:
    """The same for a Secret's manifest whose key is damaged."""
    held = base64.b64encode(raw).decode()[1:] if key == "data" else raw.decode(errors="replace")
    outer = f"kind: Secret\n{key}:\n  config: {held!r}\n  password: {_CANARY}\n".encode()
    try:
        said = repr(parse(from_file(outer)))
    except ConfigInvalid as err:
        said = _said_about(err)
    assert _CANARY not in said


def test_the_placeholder_is_the_contracts() -> None:
    """The strategies draw the same literal that the agent replaces."""
    assert NODE_IP_PLACEHOLDER == documents.PLACEHOLDER
