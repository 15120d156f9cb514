"""Configs: a TOML file → a validated `Config`; and the names in it → the functions of jills.

Strings for choices stand here and nowhere else. A value under [hparams.*] may be a list: then it is an axis of the
sweep, and several lists make all their combinations.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import jax
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import jills
from jills import activations, losses, solvers

ActivationName = Literal["identity", "tanh", "sigmoid", "softplus", "arcsinh", "leaky_relu", "relu", "gelu", "silu"]
LossName = Literal["squared_error", "softmax_cross_entropy", "sigmoid_cross_entropy", "huber"]
Positive = Annotated[int, Field(ge=1)]
Axis = float | Annotated[list[float], Field(min_length=1)]


class ConfigError(Exception):
    """A config cannot be used; the message is one line: file, key, what was given, what is allowed."""


class Table(BaseModel):
    """A table of a config: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sunspots(Table):
    """Yearly sunspots: the last `lags` years → the next."""

    name: Literal["sunspots"]
    lags: Positive = 8
    test_from: int = 1950  # the first year tested


class Electricity(Table):
    """Half-hourly demand, a day ahead; see `experiments.data.fetch`."""

    name: Literal["electricity"]
    lags: Positive = 48
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class ElNino(Table):
    """Monthly sea surface temperature: the last `lags` months → the one `horizon` months ahead."""

    name: Literal["elnino"]
    lags: Positive = 12
    horizon: Positive = 1
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class RandomSplit(Table):
    """A table or images, split at random; see `experiments.data.tables` and `experiments.data.images`."""

    name: Literal["diabetes", "boston", "breast-cancer", "auto-mpg", "concrete", "diamonds", "digits", "mnist-10k"]
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0


class FashionMnist(Table):
    """Images of clothes, the published split; see `experiments.data.fetch`."""

    name: Literal["fashion-mnist"]


class Cifar10(Table):
    """Colour images, the published split, from the files of its authors; see `experiments.data.cifar`."""

    name: Literal["cifar-10"]
    path: str | None = None  # of the folder with the batches


class Teacher(Table):
    """Synthetic: a random network of the same shape labels random inputs; each seed has its own."""

    name: Literal["teacher"]
    inputs: Positive
    outputs: Positive = 1
    rows: Positive = 200
    test_rows: Positive = 1000
    noise: Annotated[float, Field(ge=0)] = 0.0  # standard deviation, on the training targets only


DATA: dict[str, type[Table]] = {
    "sunspots": Sunspots,
    "electricity": Electricity,
    "elnino": ElNino,
    "teacher": Teacher,
    **dict.fromkeys(get_args(RandomSplit.model_fields["name"].annotation), RandomSplit),
    "fashion-mnist": FashionMnist,
    "cifar-10": Cifar10,
}
AnyData = Sunspots | Electricity | ElNino | Teacher | RandomSplit | FashionMnist | Cifar10


class NetworkTable(Table):
    """The network; its inputs and outputs are those of the data."""

    hidden: list[Positive]
    activation: ActivationName = "tanh"
    output: ActivationName = "identity"
    slope: Annotated[float, Field(gt=0)] = 0.1  # of leaky_relu


class IllsTable(Table):
    """The static choices of ILLS."""

    solver: Literal["lstsq", "qr", "cholesky"] = "qr"
    linearized: bool = False
    margin: Annotated[float, Field(gt=0)] | None = None
    target: Literal["ideal", "working_response", "softened", "scaled"] | None = None  # None: that of the loss
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of softened
    logit: Annotated[float, Field(gt=0)] = 3.0  # of scaled


class IllsHparams(Table):
    """The hyperparameters of ILLS."""

    learning_rate: Axis = 0.5
    ridge: Axis = 0.0


class AdamHparams(Table):
    """The hyperparameters of Adam."""

    learning_rate: Axis = 1e-2
    b1: Axis = 0.9
    b2: Axis = 0.999
    eps: Axis = 1e-8


class GaussNewtonHparams(Table):
    """The hyperparameters of layerwise Gauss–Newton on a full batch."""

    weight_decay: Axis = 0.0
    damping: Axis = 1e-2


class EvidenceHparams(Table):
    """Where evidence begins; it chooses its decay itself."""

    alpha: Axis = 10.0
    beta: Axis = 1.0


class HparamsTable(Table):
    """The algorithms to run: those whose table is there."""

    ills: IllsHparams | None = None
    gauss_newton: GaussNewtonHparams | None = None
    adam: AdamHparams | None = None
    evidence: EvidenceHparams | None = None


HPARAMS = {
    "ills": IllsHparams,
    "gauss_newton": GaussNewtonHparams,
    "adam": AdamHparams,
    "evidence": EvidenceHparams,
}


class ProblemConfig(Table):
    """What every experiment is about: data, a network, a loss."""

    title: str
    data: Annotated[AnyData, Field(discriminator="name")]
    network: NetworkTable
    loss: LossName = "squared_error"
    delta: Annotated[float, Field(gt=0)] = 1.0  # of huber
    seed: Annotated[int, Field(ge=0)] = 0  # of everything random
    dtype: Literal["float32", "float64"] = "float64"


class Config(ProblemConfig):
    """A comparison: every algorithm × its hyperparameters × seeds, on the same starts and data."""

    hparams: HparamsTable
    ills: IllsTable = IllsTable()
    num_steps: Positive
    seeds: Positive
    chunk_steps: Positive = 20  # between two looks at the progress bar


AnyConfig = TypeVar("AnyConfig", bound=ProblemConfig)


def load_config(path: str | Path, changes: Sequence[str] = ()) -> Config:
    """Reads a config and applies `key=value` changes, keys with dots, values in TOML.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed.
    """
    config = read(path, Config, changes)
    if not algorithms_of(config):
        raise ConfigError(f"{path}: hparams: names no algorithm; allowed: {', '.join(HparamsTable.model_fields)}")
    _check_hparams(config, path)
    return config


def read(path: str | Path, kind: type[AnyConfig], changes: Sequence[str] = ()) -> AnyConfig:
    """A file, with `changes`, as a config of a kind.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    for change in changes:
        _apply(raw, change)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_one_line(error, kind)}") from error


def _apply(raw: dict, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {change}: must be key=value, such as seeds=5 or hparams.ills.learning_rate=[0.1,0.5]")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # what is no TOML value is a string
    *tables, last = key.strip().split(".")
    for table in tables:
        raw = raw.setdefault(table, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {change}: {table} is a value, not a table")
    raw[last] = value


def _one_line(error: ValidationError, kind: type[ProblemConfig]) -> str:
    """The first complaint: key, what is wrong, and what is allowed."""
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"]]
    # pydantic names the branch of a union in the path; the user wrote no such key.
    branches = {"float", *DATA}
    key = ".".join(step for step in steps if step not in branches and "[" not in step)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed: {', '.join(_allowed_keys(steps[:-1], kind))}"
    if first["type"] == "union_tag_invalid":
        return f"{key}.name: unknown data set {first['input'].get('name')!r}; allowed: {', '.join(DATA)}"
    if first["type"] == "union_tag_not_found":
        return f"{key}.name: missing; allowed: {', '.join(DATA)}"
    if first["type"] == "missing":
        return f"{key}: missing; it must be given"
    if "too_short" in {each["type"] for each in error.errors()}:
        return f"{key}: the list is empty; give at least one number"
    given = repr(first["input"])
    return f"{key}: {first['msg']}, not {given if len(given) < 60 else given[:57] + '...'}"


def _allowed_keys(steps: Sequence[str], kind: type[ProblemConfig]) -> list[str]:
    table: Any = kind
    for step in steps:
        if step in DATA:
            table = DATA[step]
        elif step in ("hparams", "network"):
            table = {"hparams": HparamsTable, "network": NetworkTable}[step]
        elif step == "ills" and table is kind:
            table = IllsTable
        elif step in HPARAMS:
            table = HPARAMS[step]
    return list(table.model_fields)


def _check_hparams(config: Config, path: str | Path) -> None:
    network = build_network(config, 1, 1)
    for name in algorithms_of(config):
        try:
            build_algorithm(config, name, network).check(build_hparams(config, name))
        except ValueError as error:
            raise ConfigError(f"{path}: hparams.{name}: {error}") from error


def algorithms_of(config: Config) -> list[str]:
    """The names of the algorithms to run, in a fixed order."""
    return [name for name in HparamsTable.model_fields if getattr(config.hparams, name) is not None]


def build_network(config: ProblemConfig, num_inputs: int, num_outputs: int) -> jills.Network:
    """The network of a config for data of these widths."""
    table = config.network
    sizes = (num_inputs, *table.hidden, num_outputs)
    return jills.Network(sizes, _activation(table.activation, table.slope), _activation(table.output, table.slope))


def _activation(name, slope):
    return activations.leaky_relu(slope) if name == "leaky_relu" else getattr(activations, name)


def build_loss(config: ProblemConfig) -> jills.Loss:
    """The loss that all algorithms of a config lower."""
    return losses.huber(config.delta) if config.loss == "huber" else getattr(losses, config.loss)


def _target(table: IllsTable) -> jills.ills.Target | None:
    if table.target == "softened":
        return jills.ills.softened(table.epsilon)
    if table.target == "scaled":
        return jills.ills.scaled(table.logit)
    return None if table.target is None else getattr(jills.ills, table.target)


def build_algorithm(config: Config, name: str, network: jills.Network) -> jills.Algorithm:
    """The algorithm called `name`."""
    loss = build_loss(config)
    if name == "ills":
        table = config.ills
        solver, target = getattr(solvers, table.solver), _target(table)
        return jills.ills.build(network, loss, solver, target=target, margin=table.margin, linearized=table.linearized)
    return getattr(jills, name).build(network, loss)


def build_hparams(config: Config, name: str) -> Any:
    """The `Hparams` of an algorithm, each leaf `(H,)`: all combinations of its lists."""
    axes = getattr(config.hparams, name).model_dump()
    return jax.tree.map(lambda leaf: leaf.astype(config.dtype), jills.product(getattr(jills, name).Hparams, **axes))
