"""The places of the files of a service, and the registered models that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import rollforge
from growing import BEGIN, STEP, Market, strategy, template
from rollforge.errors import ConfigError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Release,
    Role,
    ServiceDefinition,
    day_body,
    release_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.online.locations import (
    RELATIVE,
    data_folder,
    new_service_folder,
    relative_paths,
    service_folder,
    workflow_file,
)
from rollforge.online.registry import check_registry, ledger_mark, mirror_aliases
from rollforge.online.service import Service
from rollforge.online.strategy import RollingStrategy
from rollforge.run.trainer import TrainerR
from rollforge.session import current_session
from rollforge.track.folder import FolderTracker

# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is that of a project."""
    monkeypatch.delenv("ROLLFORGE_HOME", raising=False)
    made = tmp_path / "prod"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def recorded(relative: Mapping[str, str] | None = None, **absolute: Path) -> ServiceDefinition:
    paths = {key: str(path) for key, path in absolute.items()}
    return ServiceDefinition("us", {**paths, RELATIVE: dict(relative)} if relative is not None else paths)


def ledger_in(folder: Path) -> str:
    return f"sqlite:///{folder}/tasks.db"


@pytest.mark.parametrize("definition", [None, ServiceDefinition("us", "the text"), recorded(), recorded({})])
def test_a_service_without_recorded_paths_uses_the_folder_of_the_project(
    project: Path, tmp_path: Path, definition: ServiceDefinition | None
) -> None:
    """There is neither a file of a workflow nor a data folder."""
    for ledger in (ledger_in(tmp_path / "elsewhere"), "memory://us"):
        assert service_folder("us", definition, ledger) == project / ".rollforge/services/us"
        assert new_service_folder("us", definition, ledger) == project / ".rollforge/services/us"
        assert (workflow_file(definition, ledger), data_folder(definition, ledger)) == (None, None)


def test_a_relative_path_is_the_one_by_the_ledger(project: Path, tmp_path: Path) -> None:
    """What is only read may still be at its absolute place; what is written never is."""
    was, ledger = tmp_path / "former", ledger_in(tmp_path / "copy/.rollforge")
    relative = {"path": "../job.yaml", "data": "../data", "folder": "services/us"}
    known = recorded(relative, path=was / "job.yaml", data=was / "data", folder=was / "us")
    here = (tmp_path / "copy/job.yaml", tmp_path / "copy/data")
    found = [(workflow_file(known, ledger), data_folder(known, ledger))]
    for made in (was / "job.yaml", was / "data", *here):
        made.mkdir(parents=True)
        found.append((workflow_file(known, ledger), data_folder(known, ledger)))
    assert found == [here, (was / "job.yaml", here[1]), (was / "job.yaml", was / "data"), (here[0], was / "data"), here]
    (was / "us").mkdir()
    assert service_folder("us", known, ledger) == tmp_path / "copy/.rollforge/services/us"
    assert data_folder(recorded({"data": "../none"}), ledger) == tmp_path / "copy/none"
    assert data_folder(known, "memory://us") == was / "data"


def test_the_paths_of_a_project_are_recorded_relative_to_its_ledger(project: Path, tmp_path: Path) -> None:
    """Those below the ledger's folder, and those in the working folder if the ledger is in it too."""
    paths = {"path": f"{project}/jobs/job.yaml", "data": f"{tmp_path}/market", "folder": f"{tmp_path}/db/services/us"}

    def relative(folder: Path, known: ServiceDefinition | None = None) -> dict[str, str]:
        return relative_paths(paths, ledger_in(folder), known)

    assert relative(tmp_path / "db") == {"folder": "services/us"}
    assert relative(project / ".rollforge") == {"path": "../jobs/job.yaml"}
    assert relative(project / "jobs") == {"path": "job.yaml"}
    assert relative(tmp_path / "elsewhere") == relative_paths(paths, "memory://us", None) == {}
    assert relative(tmp_path) == {"path": "prod/jobs/job.yaml", "data": "market", "folder": "db/services/us"}


def test_paths_that_were_relative_stay_so(project: Path, tmp_path: Path) -> None:
    """A definition that is recorded again from another working folder still moves with the ledger."""
    paths = {"path": f"{tmp_path}/other/job.yaml", "data": f"{tmp_path}/other/data"}
    known = recorded({"path": "../job.yaml", "data": "../former"})
    ledger = ledger_in(tmp_path / "other/.rollforge")
    assert relative_paths(paths, ledger, known) == {"path": "../job.yaml"}
    assert relative_paths(paths, ledger, recorded({})) == {}


def test_the_folder_of_a_new_definition_is_the_known_one_if_it_exists(project: Path, tmp_path: Path) -> None:
    """An absolute path of an earlier version may be that of the project from which this one was copied."""
    ledger, own = ledger_in(tmp_path / "copy/.rollforge"), tmp_path / "copy/.rollforge/services/us"
    was, default = tmp_path / "former/us", project / ".rollforge/services/us"
    absolute, relative = recorded(folder=was), recorded({"folder": "files/us"}, folder=was)

    def found() -> list[Path]:
        return [new_service_folder("us", known, ledger) for known in (absolute, relative, None)]

    assert found() == [default, default, default]
    was.mkdir(parents=True)
    assert found() == [was, default, default]
    assert new_service_folder("us", absolute, "memory://us") == was
    own.mkdir(parents=True)
    assert found() == [own, default, own]
    (tmp_path / "copy/.rollforge/files/us").mkdir(parents=True)
    assert found() == [own, tmp_path / "copy/.rollforge/files/us", own]


# -- a registry of models ----------------------------------------------------------------------------------------------


class Registry(FolderTracker):
    """Runs in a folder, and a registry of models in memory."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.owners: dict[str, tuple[str, str | None]] = {}
        self.aliases: dict[str, dict[str, str | None]] = {}

    def check_model_owner(self, model: str, owner: str, ledger: str | None = None) -> None:
        """Raise an error if others have created a model."""
        if self.owners.get(model, (owner, ledger)) != (owner, ledger):
            raise ConfigError(f"The model {model} belongs to others.")

    def models_of_owner(self, owner: str, ledger: str | None = None) -> list[str]:
        """Return the models of a service."""
        return sorted(model for model, known in self.owners.items() if known == (owner, ledger))

    def set_model_aliases(
        self, model: str, runs: Mapping[str, str | None], owner: str, ledger: str | None = None
    ) -> bool:
        """Set the aliases of a model."""
        self.check_model_owner(model, owner, ledger)
        self.owners[model] = owner, ledger
        self.aliases[model] = dict(runs)
        return True


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The tracking store of the session."""
    made = Registry(f"folder:{tmp_path / 'models'}")
    rollforge.init(tmp_path, tracker=made, store_uri=f"memory://{tmp_path.name}")
    return made


def release(recorder: str, template: str, role: Role = Role.CHAMPION, strategy: str = "served") -> Release:
    return Release("9f8a", "served", recorder, role, BEGIN, strategy=strategy, template=template)


def state_of(*releases: Release, made_at: float = 0.5) -> ServiceState:
    body = day_body(DayResult(BEGIN, DayState.PUBLISHED), releases=releases)
    return ServiceState.of([Entry("us", 1, EntryKind.DAY, body, 1, made_at)])


def service_of(*strategies: RollingStrategy) -> Service:
    return Service("us", list(strategies), TrainerR(), BEGIN)


def named(*names: str) -> RollingStrategy:
    generator = RollingGen(step=STEP, rtype="sliding")
    return RollingStrategy("served", [template(alpha=float(n)) for n in range(len(names))], generator, names)


def test_the_mark_of_a_ledger_is_that_of_its_first_entry() -> None:
    """The mark is stored in registries, so that of a later version is the same; a ledger without entries has none."""
    first, second = state_of(made_at=0.5), state_of(made_at=1717113600.25)
    assert ledger_mark(first) == "4fd6fa4ba1c0f1f72d875848f2c8225c"
    assert ledger_mark(second) != ledger_mark(first)
    longer = first.after(replace(first.entries[0], number=2, made_at=9.0))
    assert (ledger_mark(longer), ledger_mark(ServiceState())) == (ledger_mark(first), "")


def test_each_model_of_a_service_has_its_own_registered_model(registry: Registry, tmp_path: Path) -> None:
    """The owners are compared; a tracking store without a registry is refused."""
    uri = current_session().tracking_uri
    registry.owners = {"ranking": ("eu", "mark"), "ranking.b": ("us", "mark")}
    for models in (["a", "b"], ["b", "c", "d/e"]):
        check_registry(uri, "ranking", "us", models, "mark")
    check_registry(uri, "other", "us", [], "mark")
    with pytest.raises(ConfigError, match="The model ranking belongs to others"):
        check_registry(uri, "ranking", "us", [], "mark")
    with pytest.raises(ConfigError, match=r"The model ranking\.b belongs to others"):
        check_registry(uri, "ranking", "us", ["a", "b"], "another")
    with pytest.raises(ConfigError) as info:
        check_registry(uri, "ranking", "us", ["x", "a/b", "c", "a:b"], "mark")
    assert "The models 'a/b' and 'a:b' would both be registered as 'ranking.a_b'. Rename one." in str(info.value)
    with pytest.raises(ConfigError, match=r"'ranking' is a model in MLflow's registry, but the runs are in folder:"):
        check_registry(f"folder:{tmp_path}/others", "ranking", "us", [], "mark")


def test_the_aliases_of_a_service_are_its_models_on_a_day(registry: Registry) -> None:
    """An alias without a model is removed, and so are those of models that are no longer used; others' stay."""
    registry.owners = {"former": ("us", ledger_mark(state_of())), "theirs": ("us", "another"), "ranking.a": ("eu", "x")}
    registry.aliases = {"former": {"champion": "r0"}, "theirs": {"champion": "r8"}}
    single = service_of(strategy())
    mirror_aliases(single, state_of(release("r1", "served")), BEGIN, "ranking")
    assert registry.aliases == {
        "former": {"champion": None, "candidate": None},
        "theirs": {"champion": "r8"},
        "ranking": {"champion": "r1", "candidate": None},
    }
    state = state_of(release("r1", ""), release("r2", "served", Role.CANDIDATE))
    mirror_aliases(single, state, BEGIN, "ranking")
    assert registry.aliases["ranking"] == {"champion": "r1", "candidate": "r2"}


@pytest.mark.parametrize(
    ("strategies", "releases", "expected"),
    [
        ([named("a", "b")], [release("r1", "a"), release("r2", "b")], {"n.a": "r1", "n.b": "r2"}),
        # A model of a workflow may be called like the strategy; with several, its registered model is like the others.
        ([named("served", "b")], [release("r1", "served"), release("r2", "b")], {"n.served": "r1", "n.b": "r2"}),
        # One that was the only model of the workflow before.
        ([named("a", "b")], [release("r1", "served"), release("r2", "b")], {"n": "r1", "n.b": "r2"}),
        ([strategy()], [release("r1", "a/b:c")], {"n.a_b_c": "r1"}),
        ([strategy()], [release("r1", "served", strategy="")], {"n": "r1"}),
        (
            [strategy(), strategy("second")],
            [release("r1", "served"), release("r2", "second", strategy="second")],
            {"n.served": "r1", "n.second": "r2"},
        ),
        ([named("a", "b")], [release("r1", "a"), replace(release("r2", "b"), instead_of="a")], {"n.a": "r2"}),
    ],
)
def test_registered_models_by_the_names_of_models(
    registry: Registry, strategies: list[RollingStrategy], releases: list[Release], expected: dict[str, str]
) -> None:
    """The only model of a service has the name itself, and each of several has its own added to it."""
    mirror_aliases(service_of(*strategies), state_of(*releases), BEGIN, "n")
    assert registry.aliases == {model: {"champion": run, "candidate": None} for model, run in expected.items()}


def test_registered_models_of_others_are_reported_after_the_rest(registry: Registry) -> None:
    """All of them in one error."""
    registry.owners = {"n.a": ("eu", "x"), "n.b": ("eu", "x")}
    state = state_of(*(release(f"r{model}", model) for model in "abc"))
    with pytest.raises(ConfigError) as info:
        mirror_aliases(service_of(named("a", "b", "c")), state, BEGIN, "n")
    assert str(info.value) == "The model n.a belongs to others. The model n.b belongs to others."
    assert registry.aliases == {"n.c": {"champion": "rc", "candidate": None}}


def test_a_service_without_models_changes_no_alias(market: Market) -> None:
    """The tracking store need not have a registry then."""
    state = state_of(release("r1", "served")).after(
        Entry("us", 2, EntryKind.PROMOTION, release_body([release("r1", "served", Role.RETIRED)], "x"), 1, 1.0)
    )
    mirror_aliases(service_of(strategy()), state, BEGIN, "n")
    with pytest.raises(ConfigError, match="MLflow's registry"):
        mirror_aliases(service_of(strategy()), state.known(1), BEGIN, "n")
