"""Secrets are masked in every form in which they may be written, and stored in files that only their owner can read."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import example, given, strategies as st

from rollforge.confidential import (
    is_secret_name,
    mask_error,
    mask_secrets,
    private_file,
    private_folder,
    remember_secret,
)
from rollforge.errors import RollforgeError
from rollforge.store.base import open_store
from rollforge.track.base import get_experiment, open_tracker
from rollforge.workflow import load_workflow

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:s3cr3t@db/tasks",
        "postgresql://ann:p@s3cr3t@db/tasks",
        "postgresql://ann:s3cr3t@p@db:5432/tasks",
        "postgresql://ann:/s3cr3t@db/tasks",
        "postgresql://ann:x#s3cr3t@db/tasks",
        "postgresql://ann:my s3cr3t@db/tasks",
        "postgresql://ann:%40s3cr3t@db/tasks",
        "postgresql://:s3cr3t@db/tasks",
        "https://s3cr3t@github.example/x",
        "mongodb+srv://ann:s3cr3t@a.example,b.example/db?replicaSet=x",
        "postgresql://db/tasks?user=ann&password=s3cr3t",
        "postgresql://db/tasks?sslpassword=s3cr3t&sslmode=require",
        "http://host/?token=s3cr3t",
        "http://host/x?a=1;access_token=s3cr3t",
        "http://host/x?api_key=s3cr3t#top",
        "host=db user=ann password=s3cr3t dbname=tasks",
        "host=db password='my s3cr3t' user=ann",
        'host=db password = "s3cr3t"',
        "PGPASSWORD=s3cr3t psql",
        "{'password': 's3cr3t', 'user': 'ann'}",
        '{"api_token": "s3cr3t"}',
        "db_password: s3cr3t",
        "  secret_key: my s3cr3t  # comment",
        "Authorization: Bearer s3cr3ts3cr3t",
        "connection to postgresql://ann:s3cr3t@db/tasks failed, and to mongodb://bob:s3cr3t@db2/x too",
        "sqlite:///x.db; postgresql://ann:s3cr3t@[::1]:5432/x",
        "--store postgresql://ann:s3cr3t@db/tasks --jobs 8",
        "postgresql://ann:'s3cr3t@db/x",
        'postgresql://ann:a"s3cr3t@db/x',
        "postgresql://ann:a<s3cr3t@db/x",
        "ann:s3cr3t@db:5432/x",
        "postgresql:/ann:s3cr3t@db/x",
        "postgresql:ann:s3cr3t@db/x",
        "http://h/?X-Amz-Signature=s3cr3t&X-Amz-Credential=s3cr3t",
        "http://h/?jwt=s3cr3t",
        "--password s3cr3t --jobs 8",
        "--db-token s3cr3t",
        "Authorization: Token s3cr3ts3cr3t",
        "Authorization: Basic s3cr3t",
        "mongodb://s3cr3t@host/db",
        "mongodb://s3cr3t:@host/db",
        "POSTGRESQL://ann:s3cr3t@db/tasks",
        "postgresql+psycopg2://ann:s3cr3t@db/tasks",
        "postgresql%3A%2F%2Fann%3As3cr3t%40db%2Ftasks",
        "postgresql%253A%252F%252Fann%253As3cr3t%2540db%252Ftasks",
        "mongodb%3A%2F%2Fs3cr3t%40db%2Ftasks",
        "postgresql://ann%3As3cr3t%40db/tasks",
        "http://proxy/?url=postgresql%3A%2F%2Fann%3As3cr3t%40db%2Ftasks",
        "http://proxy/?url=postgresql://ann:s3cr3t@db/tasks",
        "postgresql://ann:a\ns3cr3t@db/tasks",
        "postgresql://ann:s3cr3t\r\nb@db/tasks",
        "postgresql://db/tasks?user=ann&pass%77ord=s3cr3t",
        "http://h/?%74oken=s3cr3t",
        "host=db password = 's3cr3t b' user=ann",
        "export PGPASSWORD='s3cr3t x'",
        "https://a.blob.core.windows.net/c?sv=2020&sig=s3cr3t%3D&se=1",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=s3cr3t==;EndpointSuffix=core.windows.net",
        "https://storage.googleapis.com/b?GoogleAccessId=x&Signature=s3cr3t&Expires=1",
        "https://h/?subscription-key=s3cr3t",
        "AWS_SECRET_ACCESS_KEY=s3cr3t",
        "http_proxy=http://ann:s3cr3t@proxy:3128",
        "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:s3cr3t",
        "//ann:s3cr3t@db/tasks",
        '{"uri": "https:\\/\\/ann:s3cr3t@db\\/tasks"}',
        'password: "s3cr3t',
        "'api-key' = s3cr3t",
        "Authorization: s3cr3t",
        "Cookie: session=s3cr3t; x=1",
        "curl -u ann:s3cr3t https://h",
        "ghp_s3cr3tAAAAAAAAAAAAAAAAAAAA",
        "eyJhbGciOiJIUzI1NiJ9.s3cr3ts3cr3t.s3cr3ts3cr3t",
        "password: |\n  s3cr3t\n  s3cr3t",
        "db_password: >-\n  s3cr3t",
        "password:\n    s3cr3t",
        "password=b's3cr3t'",
        "password=SecretStr('s3cr3t')",
        "token => s3cr3t",
        "<password>s3cr3t</password>",
        "('password', 's3cr3t')",
        '["api_token", "s3cr3t"]',
        "machine h login ann password s3cr3t",
        "CREATE ROLE ann PASSWORD 's3cr3t'",
        "identified by 's3cr3t'",
        "https://s3cr3t:x-oauth-basic@github.com/a",
        "sqlite:///x.db?cipher_key=s3cr3t",
        "SharedAccessSignature=s3cr3t",
        "password=a\\'s3cr3t",
        "password='a''s3cr3t'",
        "password=a&s3cr3t",
        "password=a,s3cr3t",
        "password=a;s3cr3t",
        "password=a)s3cr3t",
    ],
)  # fmt: skip
def test_a_secret_is_masked(text: str) -> None:
    """In URIs, query parameters, connection strings, mappings, headers and commands, also several times in one text."""
    masked = mask_secrets(text)
    assert SECRET not in masked
    assert "***" in masked
    assert mask_secrets(masked).replace("***:***", "***") in (masked, masked.replace("***:***", "***"))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000 is not reachable; write to ann@example.org",
        "sqlite:///home/ann@work/tasks.db",
        "folder:/data/runs",
        "https://host/path/with@sign?x=1",
        "file:///tmp/x",
        "window 3: test 2016-01-04 … 2016-03-30",
        "passed 3 of 4",
        "tokens: 12",
        "compass: north",
        "the key 'x' is unknown",
        "learning_rate: 0.1",
        "postgresql://db:5432/tasks",
        "'http://host:5000' is not reachable; write to ann@example.org",
        "--tokens 12",
        "image rollforge:1.0@sha256",
        "http://host:5000/?code=SH600000&name=a%20b",
        "100%25 of 50%2F50; see http://host/a%40b",
        "http://host:5000\nann@example.org asked",
        "the token 'x' at position 3",
        "password authentication failed for user ann",
        "C://data//runs",
    ],
)
def test_other_texts_are_not_changed(text: str) -> None:
    """Hosts with ports, paths with an @, and words that only resemble the name of a secret are not masked."""
    assert mask_secrets(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "%41%",
        "%3A%2F%2Fa%3A",
        "x:\\/\\/a:",
        "//a:",
        "eyJaaaaaaaaa.",
        "ghp_",
        "x://a:b\n",
        "-u a",
        "cookie:",
        "a.-",
        "password=",
        "--token",
        "x://a:'",
        "password:'",
        "?a",
        "a:b@c",
        "token ",
        "{'pass",
    ],
)
def test_masking_a_long_text_takes_linear_time(piece: str) -> None:
    """The output and errors of tasks are masked, which must be fast for a hundred thousand characters."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    mask_secrets(text)
    assert time.process_time() - started < 2


PASSWORD = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"<>"), min_size=4, max_size=12
)


@example("0://", "postgresql")
@example("x://y:z://", "http")
@example("a//b://", "mongodb")
@given(PASSWORD.filter(lambda p: not p.isdigit()), st.sampled_from(["postgresql", "mongodb", "http", "redis+tls"]))
def test_any_password_in_an_address_is_masked(password: str, scheme: str) -> None:
    """The password is masked even if it contains characters that should have been escaped."""
    secret = f"Zq{password}"
    assert secret not in mask_secrets(f"cannot reach {scheme}://ann:{secret}@host.example/db now")


SCHEMES = ["postgresql", "POSTGRESQL", "postgresql+psycopg2", "mongodb", "mongodb+srv", "https", "redis+tls", "s3"]
IN_QUERY = [
    "password",
    "sslpassword",
    "token",
    "Access_Token",
    "api_key",
    "sig",
    "X-Amz-Signature",
    "pass%77ord",
    "%73ecret",
]


@given(
    scheme=st.sampled_from(SCHEMES),
    user=st.sampled_from(["ann", "ann.b", "a%40b"]),
    password=PASSWORD.filter(lambda p: not p.isdigit()),
    form=st.sampled_from(["user and password", "token as user", "token and no password", "in the query"]),
    parameter=st.sampled_from(IN_QUERY),
    coded=st.integers(0, 2),
    nested=st.booleans(),
    around=st.sampled_from(["{}", "'{}' is not reachable", "cannot open {}: refused", '{{"store": "{}"}}', "a\n{}\nb"]),
)
def test_an_address_in_any_form_does_not_show_its_secret(
    scheme: str, user: str, password: str, form: str, parameter: str, coded: int, nested: bool, around: str
) -> None:
    """However it is composed, encoded, nested and quoted; the host and the database are still shown."""
    secret = quote(f"Zq{password}Qz", safe="")
    info = {
        "user and password": f"{user}:{secret}@",
        "token as user": f"{secret}@",
        "token and no password": f"{secret}:@",
        "in the query": "",
    }[form]
    address = f"{scheme}://{info}host.example/tasks_db"
    if form == "in the query":
        address += f"?a=1&{parameter}={secret}&b=2"
    if nested:
        address = f"http://proxy.example/?to={address}"
    for _ in range(coded):
        address = quote(address, safe="")
    masked = mask_secrets(around.format(address))
    plain = masked
    for _ in range(4):
        assert "Zq" not in plain
        assert "Qz" not in plain
        plain = unquote(plain)
    assert "host.example" in plain
    assert "tasks_db" in plain


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:p@s3cr3t@127.0.0.1:1/db",
        "postgresql://ann:a@b@s3cr3t@127.0.0.1:1/db",
        "postgresql://:s3cr3t/x@127.0.0.1:1/db",
        "postgresql://ann:s3cr3t x@127.0.0.1:1/db",
        "host=127.0.0.1 port=1 password=a s3cr3t",
        "mongodb://ann:p@s3cr3t@127.0.0.1:1/db?serverSelectionTimeoutMS=100",
    ],
)
def test_a_password_that_a_driver_takes_for_the_host_is_masked(address: str) -> None:
    """If a password is not escaped, a driver splits the address elsewhere and quotes a part of it in its error."""
    with pytest.raises(RollforgeError) as raised:
        open_store(address)
    assert SECRET not in str(raised.value).replace("password=*** s3cr3t", "")
    assert "127.0.0.1" in str(raised.value)


def test_text_that_is_not_secret_stays_in_an_error() -> None:
    """Text that is not secret stays even if the password is equal to a name that is not secret."""
    address = "postgresql://ann:ann@db:5432/db"
    for text in ('password authentication failed for user "ann"', 'database "db" does not exist', "no host 'other'"):
        assert mask_error(text, address) == text


def test_a_known_secret_is_masked_in_every_notation() -> None:
    """The secret may be written as in a URI, in JSON, or in the repr of a string."""
    secret = 'a "b"/é@c'
    remember_secret(secret)
    for text in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret), ascii(secret)):
        assert mask_secrets(f"x {text} y") in ("x *** y", 'x "***" y', "x '***' y")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("MY_DB_PASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("HF_TOKEN", True),
        ("PGPASSWORD", True),
        ("apikey", True),
        ("HOME", False),
        ("PATH", False),
        ("tokens_per_day", False),
    ],
)
def test_secrets_are_recognized_by_their_names(name: str, secret: bool) -> None:
    """Names determine which environment variables contain secrets."""
    assert is_secret_name(name) is secret


def test_private_files_and_folders_are_accessible_to_their_owner_only(tmp_path: Path) -> None:
    """Only the owner has access, whatever the umask; existing files are not changed."""
    private_folder(tmp_path / "a" / "b")
    private_file(tmp_path / "a" / "b" / "c")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o600
    (tmp_path / "there").write_text("x")
    (tmp_path / "there").chmod(0o644)
    private_file(tmp_path / "there")
    assert ((tmp_path / "there").read_text(), stat.S_IMODE((tmp_path / "there").stat().st_mode)) == ("x", 0o644)


def test_stores_and_runs_are_accessible_to_their_owner_only(tmp_path: Path) -> None:
    """Only the owner can access the task store and its log, MLflow's database and artifacts, and the folder of runs."""
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"x": 1}])
    for file in tmp_path.glob("tasks.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", f"folder:{tmp_path}/runs"):
        get_experiment(open_tracker(uri), experiment_name="e").create_recorder().end_run()
    for file in tmp_path.glob("mlflow.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for folder in ("mlartifacts", "runs"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700, folder


def test_the_recorded_diff_contains_no_secrets(tmp_path: Path) -> None:
    """The recorded diff omits files whose names look like secrets, and masks passwords in others; it contains all other
    changes."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    files = ["a.py", ".env", "config/.env.local", "db-credentials.json", "keys/id_rsa", "My_Secrets/x.txt"]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before\n")
    subprocess.run([*git, "add", "-f", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-qm", "x"], cwd=tmp_path, check=True)
    for name in files:
        (tmp_path / name).write_text("after\nDB_PASSWORD = 'hunter2hunter2'\n")
    code = "from rollforge.track.provenance import code_diff; print(code_diff())"
    environment = {k: v for k, v in os.environ.items() if k != "ROLLFORGE_CODE_STATE"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "a.py" in done.stdout
    assert "+after" in done.stdout
    assert "hunter2" not in done.stdout
    for name in files[1:]:
        assert name not in done.stdout


def test_a_secret_from_the_environment_is_masked_in_the_workflow_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the workflow that the report shows has it masked, even if it does not look like a password."""
    monkeypatch.setenv("MY_DB_PASSWORD", "correct horse")
    file = tmp_path / "w.yaml"
    file.write_text(
        "rollforge: {data: x, store: 'postgresql://ann:{{ MY_DB_PASSWORD }}@db/t'}\n"
        "note: &n ['{{ MY_DB_PASSWORD }}']\ntask: {model: a.B, dataset: a.C}\n"
    )
    workflow = load_workflow(file)
    assert "correct horse" in workflow.session.store_uri
    assert "correct horse" not in mask_secrets(workflow.text)
